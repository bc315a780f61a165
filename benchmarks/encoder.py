"""MiniLM over the wire against the same graph in process, and against MLServer.

    python -m benchmarks encoder

Sentences/s at batch 1 and 32 and lengths of 16 and 128 tokens. `Embed` and
`ModelInfer` go through the whole appliance (mutual TLS, policy, filter rules,
durable audit); MLServer answers in plaintext; "in process" is the same ONNX session
and tokenizer with nothing around them. Rounds alternate between them, so that
drift of the machine hits all alike; the median round is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from benchmarks import mlserver, report
from benchmarks.prompts import shared_folder
from benchmarks.site import Site
from casemate.pb.casemate.v1 import text_pb2, text_pb2_grpc
from casemate.pb.inference import inference_pb2, inference_pb2_grpc

ROUNDS = 3
_SECONDS_PER_ROUND = 1.5
_MODEL = "minilm"
# Concurrent callers for the row of small calls: what dynamic batching is for.
_CONCURRENT = 16

Row = dict[str, str | float]
Call = Callable[[list[str]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One shape of load."""

    batch: int
    tokens: int
    callers: int

    @property
    def label(self) -> str:
        """How the table names it."""
        return f"{self.callers} x {self.batch} x {self.tokens}"


CASES = (
    Case(1, 16, 1),
    Case(1, 16, _CONCURRENT),
    Case(32, 16, 1),
    Case(1, 128, 1),
    Case(1, 128, _CONCURRENT),
    Case(32, 128, 1),
)


def sentences(tokenizer: Tokenizer, *, tokens: int, count: int) -> list[str]:
    """Cut texts of exactly `tokens` tokens, special ones included, from WikiText-2."""
    text = (shared_folder() / "data" / "wikitext2" / "valid.txt").read_text()
    encoding = tokenizer.encode(text[: tokens * count * 12], add_special_tokens=False)
    body = tokens - 2
    spans = encoding.offsets
    cuts = range(0, len(spans) - body, body)
    found = [text[spans[at][0] : spans[at + body - 1][1]] for at in cuts][:count]
    if len(found) < count:
        raise ValueError("the text is too short")
    return found


class InProcess:
    """The session and the tokenizer, called directly."""

    def __init__(self, bundle: Path) -> None:
        options = onnxruntime.SessionOptions()
        self._session = onnxruntime.InferenceSession(
            bundle / "variants" / "default" / "model.onnx", options
        )
        self.tokenizer = Tokenizer.from_file(str(bundle / "tokenizer" / "tokenizer.json"))
        self.tokenizer.no_truncation()

    async def __call__(self, texts: list[str]) -> None:
        """Embed the texts."""
        self.tokenizer.enable_padding()
        encodings = self.tokenizer.encode_batch(texts)
        feeds = {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
        }
        self._session.run(["embedding"], feeds)


def _embed(channel: grpc.aio.Channel) -> Call:
    stub = text_pb2_grpc.TextServiceStub(channel)

    async def call(texts: list[str]) -> None:
        await stub.Embed(text_pb2.EmbedRequest(model=_MODEL, inputs=texts))

    return call


def _infer(channel: grpc.aio.Channel, model: str) -> Call:
    stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    tensor_type = inference_pb2.ModelInferRequest.InferInputTensor

    async def call(texts: list[str]) -> None:
        tensor = tensor_type(name="text_input", datatype="BYTES", shape=[len(texts)])
        tensor.contents.bytes_contents.extend(text.encode() for text in texts)
        await stub.ModelInfer(inference_pb2.ModelInferRequest(model_name=model, inputs=[tensor]))

    return call


async def _round(call: Call, texts: list[str], case: Case) -> tuple[float, float]:
    """Return calls/s and sentences/s over one round."""
    end = time.perf_counter() + _SECONDS_PER_ROUND
    calls = 0

    async def caller(number: int) -> None:
        nonlocal calls
        at = number * case.batch
        while time.perf_counter() < end:
            batch = [texts[(at + index) % len(texts)] for index in range(case.batch)]
            at += case.batch * case.callers
            await call(batch)
            calls += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(case.callers)))
    seconds = time.perf_counter() - began
    return calls / seconds, calls * case.batch / seconds


def identity_channel(identity: Path, target: str) -> grpc.aio.Channel:
    """Open a mutual TLS channel with an issued identity."""
    credentials = grpc.ssl_channel_credentials(
        (identity / "roots.pem").read_bytes(),
        (identity / "client.key").read_bytes(),
        (identity / "client.crt").read_bytes(),
    )
    return grpc.aio.secure_channel(
        target, credentials, [("grpc.ssl_target_name_override", "localhost")]
    )


async def _measure(site: Site, identity: Path, local: InProcess, peer: str | None) -> list[Row]:
    rows = []
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(identity_channel(identity, site.target))
        ways: dict[str, Call] = {
            "in_process": local,
            "embed": _embed(ours),
            "model_infer": _infer(ours, _MODEL),
        }
        if peer is not None:
            plain = await stack.enter_async_context(grpc.aio.insecure_channel(peer))
            ways["mlserver"] = _infer(plain, mlserver.MODEL)
        for case in CASES:
            texts = sentences(local.tokenizer, tokens=case.tokens, count=128)
            for call in ways.values():
                await call(texts[: case.batch])
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, call in ways.items():
                    figures[name].append(await _round(call, texts, case))
            row: Row = {"case": case.label}
            for name, rounds in figures.items():
                row[f"{name}_sentences_per_second"] = round(
                    statistics.median(rate for _, rate in rounds), 1
                )
            rows.append(row)
            print(
                "  ".join(
                    f"{key.removesuffix('_sentences_per_second')} {value}"
                    for key, value in row.items()
                ),
                flush=True,
            )
    return rows


def main() -> None:
    """Run the benchmark and write its result."""
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(Path("build/benchmarks/encoder")))
        bundle = site.bundle(Path("build/models/all-MiniLM-L6-v2"), _MODEL, "1.0.0")
        identity = site.identity("bench")
        site.install(bundle)
        # The shipped policy allows a device 600 requests a minute; this one asks faster.
        policy = site.folder / "policy.toml"
        policy.write_text(re.sub(r"(_per_minute) = \d+", r"\1 = 1000000000", policy.read_text()))
        site.start()
        command = mlserver.install()
        peer = None
        if command is not None:
            files = Path("build/benchmarks/encoder-model")
            files.mkdir(parents=True, exist_ok=True)
            for source in ("variants/default/model.onnx", "tokenizer/tokenizer.json"):
                (files / Path(source).name).write_bytes((bundle / source).read_bytes())
            peer = stack.enter_context(mlserver.serving(command, files))
        rows = asyncio.run(_measure(site, identity, InProcess(bundle), peer))
        path = report.write("encoder", {"callers_batch_tokens": rows, "rounds": ROUNDS})
        print("wrote", path)


if __name__ == "__main__":
    main()
