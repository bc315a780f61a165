"""Signed bundles of tiny models, made with the real signing and opened by the real opening.

`signed_bundle(tmp_path, source, task)` lays a bundle out, signs it with fresh keys and
returns where it is and whom to trust. `tiny_bundle(tmp_path, task)` makes the source too.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from security.bundle.manifest import (
    LLAMA_CPP,
    ONNXRUNTIME,
    BundleLimits,
    BundleManifest,
    Encoder,
    ServingDefaults,
    SpecialTokens,
    Tokenizer,
    Variant,
    encode_manifest,
)
from security.bundle.opening import VerifiedBundle, open_bundle
from security.bundle.signing import sign_bundle
from security.signing.signers import SigningKeys, Trust
from tests.support.tiny_models import tiny_encoder_dir, tiny_gguf, tiny_onnx

CREATED = datetime(2026, 1, 1, tzinfo=UTC)
DIM = 16
LABELS = ("negative", "neutral", "positive")
CONTEXT_TOKENS = {"generate": 256, "embed": 64, "classify": 64, "tensor": 1}
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@dataclass(frozen=True)
class SignedBundle:
    """A signed bundle's directory, and the trust under which it opens."""

    path: Path
    keys: SigningKeys
    trust: Trust

    def open(self) -> VerifiedBundle:
        return open_bundle(self.path, self.trust)


def signing_keys(name: str = "release") -> SigningKeys:
    """Fresh keys of a model signer."""
    return SigningKeys(
        name, ec.generate_private_key(ec.SECP256R1()), mldsa.MLDSA65PrivateKey.generate()
    )


def manifest_for(task: str, **changes: Any) -> BundleManifest:
    """A valid manifest of a tiny model; any field can be given."""
    backend = LLAMA_CPP if task == "generate" else ONNXRUNTIME
    text_encoder = task in ("embed", "classify")
    context = CONTEXT_TOKENS[task]
    fields: dict[str, Any] = {
        "name": f"tiny-{task}",
        "version": "1.0.0",
        "security_epoch": 1,
        "task": task,
        "created": CREATED,
        "variants": (Variant.of("default", backend),),
        "limits": BundleLimits(context_tokens=context, max_sequences=8, max_output_tokens=context),
        "serving_defaults": ServingDefaults(max_tokens=min(32, context)),
    }
    if task == "generate":
        fields["chat_template"] = CHAT_TEMPLATE
        fields["special_tokens"] = SpecialTokens(bos="<s>", eos="</s>")
    if text_encoder:
        labels = LABELS if task == "classify" else ()
        fields["tokenizer"] = Tokenizer()
        fields["encoder"] = Encoder(pooling="mean", normalize=True, dim=DIM, labels=labels)
    return BundleManifest(**(fields | changes))


def signed_bundle(
    tmp_path: Path,
    source: Path,
    task: str,
    *,
    tokenizer: Path | None = None,
    probes: bytes | None = None,
    keys: SigningKeys | None = None,
    **changes: Any,
) -> SignedBundle:
    """Lay out and sign a bundle whose model files are copies of `source`.

    `changes` are manifest fields that differ from `manifest_for(task)`.
    """
    manifest = manifest_for(task, **changes)
    keys = keys or signing_keys()
    root = tmp_path / f"{manifest.name}-{manifest.version}.bundle"
    files = {variant.file: source for variant in manifest.variants}
    if manifest.tokenizer is not None and tokenizer is not None:
        files[manifest.tokenizer.file] = tokenizer
    root.mkdir(mode=0o755, parents=True)
    for name, origin in files.items():
        (root / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copyfile(origin, root / name)
    (root / "bundle.json").write_bytes(encode_manifest(manifest))
    if probes is not None:
        (root / "probes.jsonl").write_bytes(probes)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    sign_bundle(root, keys)
    return SignedBundle(root, keys, Trust.of(keys.public()))


def tiny_bundle(tmp_path: Path, task: str, **changes: Any) -> SignedBundle:
    """A signed bundle of a tiny model for the task: generate, embed, classify or tensor."""
    sources = tmp_path / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    match task:
        case "generate":
            return signed_bundle(tmp_path, tiny_gguf(sources / "model.gguf"), task, **changes)
        case "tensor":
            return signed_bundle(tmp_path, tiny_onnx(sources / "model.onnx"), task, **changes)
        case _:
            tokenizer = sources / "encoder" / "tokenizer.json"
            if not tokenizer.exists():
                tiny_encoder_dir(sources / "encoder")
            labels = LABELS if task == "classify" else ()
            graph = encoder_graph(sources / f"{task}.onnx", labels=labels)
            return signed_bundle(tmp_path, graph, task, tokenizer=tokenizer, **changes)


def encoder_graph(path: Path, *, labels: tuple[str, ...] = (), vocabulary: int = 4096) -> Path:
    """Write the smallest graph with an encoder bundle's interface.

    The mean of token vectors over the mask, L2-normalized as `embedding` [batch, 16]; or,
    with labels, multiplied into `logits`. The answer depends on the tokens alone.
    """
    from onnx import TensorProto, helper, numpy_helper, save_model

    random = np.random.default_rng(7)
    table = random.standard_normal((vocabulary, DIM)).astype(np.float32)
    head = random.standard_normal((DIM, max(1, len(labels)))).astype(np.float32)
    constants = {
        "table": table,
        "head": head,
        "last": np.array([-1], np.int64),
        "sequence": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide_mask"]),
        helper.make_node("Mul", ["vectors", "wide_mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "sequence"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "sequence"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
    ]
    output = "logits" if labels else "embedding"
    width = len(labels) or DIM
    if labels:
        nodes.append(helper.make_node("MatMul", ["mean", "head"], ["logits"]))
    else:
        nodes.append(helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2))
        del constants["head"]
    names = ("input_ids", "attention_mask")
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in names],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", width])],
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    return path
