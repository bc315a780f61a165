"""Every sub-command, where it lives and what it is for.

The table is data, so that `casemate --help` imports none of the commands, and so
that a room may offer a command without this package importing that room.
Each module has an attribute `command`, a click command or group.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One sub-command: its module, its line in the help, and the extra it needs."""

    module: str
    summary: str
    section: str
    extra: str | None = None


SECTIONS = ("Set up", "Train", "Models", "Run", "Ask", "Check")

COMMANDS: dict[str, Entry] = {
    "init": Entry("casemate.cli.init", "Create a trust domain: authority, keys, policy.", "Set up"),
    "identity": Entry(
        "casemate.cli.identity", "Issue, list and revoke client identities.", "Set up"
    ),
    "rotate": Entry("casemate.cli.rotate", "Renew the server certificate or the roots.", "Set up"),
    "train": Entry(
        "trainer.commands.train", "Train a model from text or examples.", "Train", "trainer"
    ),
    "finetune": Entry(
        "trainer.commands.finetune", "Train a model on disk further.", "Train", "trainer"
    ),
    "evaluate": Entry(
        "trainer.commands.evaluate", "Measure a checkpoint on data or a text.", "Train", "trainer"
    ),
    "privacy": Entry(
        "trainer.commands.privacy",
        "Plan private finetuning, keep its ledger, audit it.",
        "Train",
        "trainer",
    ),
    "compile": Entry(
        "compiler.commands.compile",
        "Compile a model into a bundle for a processor.",
        "Models",
        "compiler",
    ),
    "tune": Entry(
        "compiler.commands.tune",
        "Search for the fastest form of a model at a promised quality.",
        "Models",
        "compiler",
    ),
    "targets": Entry(
        "compiler.commands.targets", "List the machines to compile for.", "Models", "compiler"
    ),
    "quantize": Entry(
        "compiler.commands.quantize", "Write a model in another format.", "Models", "compiler"
    ),
    "compare": Entry(
        "compiler.commands.compare",
        "Compare two forms of a model: size, speed, answers.",
        "Models",
        "compiler",
    ),
    "bundle": Entry(
        "compiler.commands.bundle", "Create bundles and look inside them.", "Models", "compiler"
    ),
    "sign": Entry("casemate.cli.sign", "Sign a bundle.", "Models"),
    "verify": Entry("casemate.cli.verify", "Verify a bundle's signatures and files.", "Models"),
    "install": Entry(
        "runtime.commands.install",
        "Install a signed bundle on this appliance.",
        "Models",
        "runtime",
    ),
    "versions": Entry(
        "runtime.commands.versions", "Show the versions in the store.", "Models", "runtime"
    ),
    "promote": Entry(
        "runtime.commands.promote", "Make an installed version live.", "Models", "runtime"
    ),
    "rollback": Entry(
        "runtime.commands.rollback", "Go back to the previous version.", "Models", "runtime"
    ),
    "serve": Entry("runtime.commands.serve", "Run the appliance.", "Run", "runtime"),
    "doctor": Entry(
        "runtime.commands.doctor", "Show what this machine can do and enforce.", "Run", "runtime"
    ),
    "top": Entry("runtime.commands.top", "Watch a running appliance.", "Run", "runtime"),
    "generate": Entry("casemate.cli.generate", "Continue a prompt.", "Ask"),
    "chat": Entry("casemate.cli.chat", "Talk to a model.", "Ask"),
    "score": Entry("casemate.cli.score", "Log-probability of a text, per token.", "Ask"),
    "embed": Entry("casemate.cli.embed", "Embed texts, or rank them by similarity.", "Ask"),
    "classify": Entry("casemate.cli.classify", "Classify texts.", "Ask"),
    "infer": Entry("casemate.cli.infer", "Call a model by the Open Inference Protocol.", "Ask"),
    "models": Entry("casemate.cli.models", "List and describe what is served.", "Ask"),
    "audit": Entry("casemate.cli.audit", "Verify, show, prove and follow the audit log.", "Check"),
    "receipt": Entry("casemate.cli.receipt", "Verify a receipt offline.", "Check"),
}
