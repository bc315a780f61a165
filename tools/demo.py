"""The whole path on two real models, as a new user would walk it.

    python -m tools.demo build/demo

Makes a trust domain, wraps and signs two models, runs the appliance, calls it as a
device would, is refused where it should be, and checks the record. Every step
prints what happened and how long it took; the first that does not do what it
should ends the demo with exit code 1. `report.json` in the folder has it all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.site import CommandFailed, Site, casemate, casemate_json
from casemate import Client
from casemate.client.errors import ClientError
from tools.steps import Demo, DemoError, expect

MODELS = Path("build/models")
GEMMA, MINILM = "gemma-3-270m", "minilm"
PROMPT = "The lighthouse keeper wrote in the log that night:"
QUESTION = "How do I stop the assembly line?"
PASSAGES = (
    "Press the red mushroom button to halt the conveyor at once.",
    "Patients' notes are kept for ten years.",
    "The lighthouse was built of granite in 1862.",
    "Lunch is served between twelve and two.",
)


class Walk:
    """The steps, in order."""

    def __init__(self, demo: Demo, folder: Path) -> None:
        self.demo = demo
        self.folder = folder
        self.say = demo.say

    def authority(self) -> dict[str, Any]:
        """Trust domain."""
        self.site = Site(self.folder / "site")
        self.say(
            f"root, issuing CA, server certificate, log keys, signing keys: {self.site.folder}"
        )
        self.say("private keys have mode 0600; authority/ and signing/ belong offline")
        return {"trust_domain": "demo.internal"}

    def identities(self) -> dict[str, Any]:
        """Two devices and an auditor."""
        self.tablet = self.site.identity("ward-tablet")
        self.other = self.site.identity("press-4")
        self.say("spiffe://demo.internal/device/ward-tablet, .../device/press-4")
        return {}

    def bundles(self) -> dict[str, Any]:
        """Signed bundles of both models, with golden probes."""
        gemma = MODELS / "gemma-3-270m-q4_k_m.gguf"
        self.gemma = self.site.bundle(gemma, GEMMA, "1.0.0")
        self.minilm = self.site.bundle(MODELS / "all-MiniLM-L6-v2", MINILM, "1.0.0")
        signers = str(self.site.folder / "trust" / "signers")
        seconds = {}
        for name, bundle in ((GEMMA, self.gemma), (MINILM, self.minilm)):
            began = time.monotonic()
            verdict = casemate_json("verify", str(bundle), "--signers", signers)
            seconds[name] = round(time.monotonic() - began, 2)
            size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
            self.say(f"{bundle.name}: {size / 1e6:.0f} MB, verified, {verdict['digest'][:16]}…")
        self.say("both signatures: OpenSSF Model Signing v1.0 (ECDSA P-256) and ML-DSA-65")
        return {"verify_seconds": seconds}

    def tampered(self) -> dict[str, Any]:
        """One flipped bit in the weights."""
        model = self.minilm / "variants" / "default" / "model.onnx"
        with model.open("r+b") as file:
            file.seek(1_000_000)
            byte = file.read(1)
            file.seek(1_000_000)
            file.write(bytes([byte[0] ^ 1]))
        try:
            self.site.install(self.minilm)
        except CommandFailed as refusal:
            self.say(f"refused: {refusal.stderr.removeprefix('error: ')}")
        else:
            raise DemoError("a tampered bundle was installed")
        finally:
            with model.open("r+b") as file:
                file.seek(1_000_000)
                file.write(byte)
        return {"refused": True}

    def appliance(self) -> dict[str, Any]:
        """Install and start."""
        for bundle in (self.gemma, self.minilm):
            self.site.install(bundle)
            self.say(f"installed {bundle.name}")
        seconds = self.site.start()
        self.say(f"ready on {self.site.target} after {seconds:.1f} s: TLS 1.3, client certificates")
        return {"ready_seconds": round(seconds, 2)}

    def generate(self) -> dict[str, Any]:
        """Stream a completion."""
        pieces, began, first = [], time.monotonic(), 0.0
        print(f"    {PROMPT}", end="", flush=True)
        with self._client() as client:
            stream = client.generate(
                GEMMA, PROMPT, max_tokens=48, temperature=0.8, top_p=0.95, seed=7
            )
            for piece in stream:
                first = first or time.monotonic() - began
                pieces.append(piece.text)
                print(piece.text.replace("\n", "\n    "), end="", flush=True)
        print()
        usage, seconds = stream.completion.usage, time.monotonic() - began
        rate = usage.completion_tokens / seconds
        self.say(f"{usage.completion_tokens} tokens, first after {first:.2f} s, {rate:.0f} tok/s")
        expect(bool("".join(pieces).strip()), "the model generated nothing")
        return {"tokens": usage.completion_tokens, "first_token_seconds": round(first, 3)}

    def score(self) -> dict[str, Any]:
        """Two sentences."""
        texts = ["The cat sat on the mat.", "The cat sat on the theorem."]
        with self._client() as client:
            likely, odd = (score.logprob for score in client.score(GEMMA, texts).scores)
        for text, logprob in zip(texts, (likely, odd), strict=True):
            self.say(f"{logprob:8.2f}  {text}")
        expect(likely > odd, "the odd sentence scored higher")
        return {"logprobs": [round(likely, 3), round(odd, 3)]}

    def embed(self) -> dict[str, Any]:
        """Rank passages."""
        with self._client() as client:
            query, *vectors = client.embed(MINILM, [QUESTION, *PASSAGES]).vectors
        ranked = sorted(
            (
                (sum(a * b for a, b in zip(query, vector, strict=True)), text)
                for vector, text in zip(vectors, PASSAGES, strict=True)
            ),
            reverse=True,
        )
        self.say(f"“{QUESTION}”")
        for similarity, text in ranked:
            self.say(f"{similarity:6.3f}  {text}")
        expect(ranked[0][1] == PASSAGES[0], "the wrong passage came first")
        return {"dimensions": len(query)}

    def triton(self) -> dict[str, Any]:
        """The same models through an unmodified tritonclient."""
        import numpy as np
        import tritonclient.grpc as triton

        with triton.InferenceServerClient(
            f"localhost:{self.site.port}",
            ssl=True,
            root_certificates=str(self.tablet / "roots.pem"),
            private_key=str(self.tablet / "client.key"),
            certificate_chain=str(self.tablet / "client.crt"),
        ) as client:
            expect(client.is_server_ready() and client.is_model_ready(GEMMA), "not ready")
            text = triton.InferInput("text_input", [1], "BYTES")
            text.set_data_from_numpy(np.array([PROMPT.encode()], dtype=np.object_))
            answer = client.infer(GEMMA, [text], parameters={"max_tokens": 12})
            words = answer.as_numpy("text_output")[0].decode()
            sentence = triton.InferInput("text_input", [1], "BYTES")
            sentence.set_data_from_numpy(np.array([QUESTION.encode()], dtype=np.object_))
            vector = client.infer(MINILM, [sentence]).as_numpy("embedding")
        self.say(f"ModelInfer {GEMMA}: {words!r}")
        self.say(f"ModelInfer {MINILM}: {vector.dtype} {list(vector.shape)}")
        expect(vector.shape == (1, 384), "the embedding has another shape")
        return {"embedding_shape": list(vector.shape)}

    def wrong_certificate(self) -> dict[str, Any]:
        """A certificate of another authority, and a revoked one."""
        stranger = Site(self.folder / "stranger", trust_domain="stranger.internal")
        foreign = stranger.identity("ward-tablet")
        # The stranger trusts this appliance, but the appliance does not know them.
        (foreign / "roots.pem").write_bytes((self.tablet / "roots.pem").read_bytes())
        self._expect_refusal(foreign, "foreign certificate")
        with Client.from_identity(self.other) as client:
            client.models()
            casemate("identity", "revoke", "press-4", cwd=self.site.folder)
            began = time.monotonic()
            while True:
                try:
                    client.models()
                except ClientError as refusal:
                    seconds = time.monotonic() - began
                    self.say(
                        f"revoked certificate, open connection: {refusal.code}"
                        f" after {seconds:.2f} s"
                    )
                    break
                expect(time.monotonic() - began < 5, "a revoked certificate is still served")
        return {"revocation_seconds": round(seconds, 3)}

    def _expect_refusal(self, identity: Path, what: str) -> None:
        try:
            with Client.from_identity(identity, target=self.site.target) as client:
                client.models(timeout_seconds=5)
        except ClientError as refusal:
            self.say(f"{what}: refused in the TLS handshake, the client sees {refusal.code}")
        else:
            raise DemoError(f"a {what} was served")

    def receipts(self) -> dict[str, Any]:
        """Verify each receipt with nothing but the log's public key."""
        vkeys = str(self.site.folder / "trust" / "log.vkeys")
        receipts = sorted((self.folder / "receipts").glob("*.json"))
        expect(len(receipts) >= 3, "the calls left no receipts")
        for receipt in receipts:
            casemate("receipt", "verify", str(receipt), "--vkeys", vkeys)
        self.say(f"{len(receipts)} receipts verified offline against {vkeys}")
        return {"receipts": len(receipts)}

    def audit(self) -> dict[str, Any]:
        """Stop the appliance and verify the whole log."""
        expect(self.site.stop() == 0, "the appliance did not end cleanly")
        site = self.site.folder
        verdict = casemate_json("audit", "verify", cwd=site)
        log = b"".join(path.read_bytes() for path in (site / "audit").rglob("*") if path.is_file())
        expect(b"lighthouse" not in log, "the log holds text of a prompt")
        self.say(f"{verdict['entries']} entries, every hash and signature checked")
        self.say("no word of a prompt or an answer is in it")
        return {"entries": verdict["entries"]}

    def _client(self) -> Client:
        return Client.from_identity(self.tablet, receipts=self.folder / "receipts")


def run(folder: Path) -> bool:
    """Walk all steps; return whether every one did what it should."""
    demo = Demo(folder)
    walk = Walk(demo, folder)
    return demo.walk(
        "Casemate demo: Gemma 3 270M and all-MiniLM-L6-v2, signed, served, checked.\n"
        f"Gemma's terms of use: {MODELS / 'GEMMA_TERMS.html'}",
        (
            ("Create a trust domain", walk.authority),
            ("Issue identities", walk.identities),
            ("Make, sign and verify a bundle of each model", walk.bundles),
            ("Flip one bit of a model: the bundle is refused", walk.tampered),
            ("Install both and start the appliance", walk.appliance),
            ("Stream a completion over mutual TLS", walk.generate),
            ("Score two sentences", walk.score),
            ("Embed sentences and rank them", walk.embed),
            ("Call the same models with tritonclient", walk.triton),
            ("Be refused with a wrong and with a revoked certificate", walk.wrong_certificate),
            ("Verify the receipts offline", walk.receipts),
            ("Stop, and verify the whole audit log", walk.audit),
        ),
        lambda: walk.site.stop() if hasattr(walk, "site") else None,
    )


def main() -> None:
    """Command line: one argument, the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for leftover in ("receipts",):
        for path in (folder / leftover).glob("*"):
            path.unlink()
    sys.exit(0 if run(folder) else 1)


if __name__ == "__main__":
    main()
