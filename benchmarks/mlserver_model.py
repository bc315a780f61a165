"""The encoder as an MLServer runtime: the same graph and tokenizer, text in, vectors out.

Runs inside MLServer's own environment (see benchmarks/mlserver.py), so it imports
nothing of this project.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from tokenizers import Tokenizer


class Encoder(MLModel):  # type: ignore[misc]
    """Embeds `text_input`."""

    async def load(self) -> bool:
        """Open the session and the tokenizer named by the settings."""
        folder = Path(self.settings.parameters.uri)
        self._session = onnxruntime.InferenceSession(folder / "model.onnx")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_padding()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Tokenize, run, answer."""
        encodings = self._tokenizer.encode_batch(StringCodec.decode_input(payload.inputs[0]))
        feeds = {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
        }
        (vectors,) = self._session.run(["embedding"], feeds)
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", vectors)]
        )
