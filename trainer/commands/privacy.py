"""`casemate privacy`: plan a private run, keep its ledger, audit what came out, sample from it.

Each sub-command imports what it needs when it is called; help stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from casemate.cli.output import emit, json_option, progress
from security.errors import UsageError
from trainer.recipe.describe import toml_value
from trainer.recipe.parse import LoadedRecipe, load_recipe

# Options of `plan` that stand for values of a recipe.
_KEYS = {
    "batch": "batch.sequences",
    "steps": "run.steps",
    "epochs": "privacy.max_epochs",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "noise_multiplier": "privacy.noise_multiplier",
    "tuning_runs": "privacy.tuning_runs",
    "ledger": "privacy.ledger",
    "dataset": "privacy.dataset",
}
# Without a recipe these say what is asked; everything else has its default.
_NEEDED = "--examples, --batch, and --steps or --epochs"


@click.group("privacy")
def command() -> None:
    """Plan private finetuning, keep the ledger of releases, audit a checkpoint, sample from it."""


@command.command("plan")
@click.argument("words", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--examples", type=click.IntRange(1), help="Records (or users); counted if left out.")
@click.option("--batch", type=click.IntRange(1), help="Expected records of a batch.")
@click.option("--steps", type=click.IntRange(1), help="Updates.")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Instead of --steps.")
@click.option("--epsilon", type=float, help="Of the claim.  [default: 8]")
@click.option("--delta", type=float, help="Of the claim.  [default: half of 1/examples]")
@click.option("--noise-multiplier", type=float, help="Given instead of solved for.")
@click.option("--tuning-runs", type=click.IntRange(0), help="Earlier runs that are in no ledger.")
@click.option("--ledger", type=click.Path(path_type=Path), help="Earlier releases count too.")
@click.option("--dataset", help="Name of the data in the ledger.")
@json_option
def plan_command(
    *, words: tuple[str, ...], examples: int | None, as_json: bool, **options: Any
) -> None:
    """Print what a private run will claim and cost; nothing is trained.

    With RECIPE it is that recipe's run, checked as `casemate finetune --private` checks it.
    Without one give --examples, --batch, and --steps or --epochs.

    \b
    Example:
      casemate privacy plan --examples 67349 --batch 1000 --epochs 3 --epsilon 3
      casemate privacy plan mine.toml --epsilon 8
    """
    from trainer.commands.privacy_plan import plan_of, render_plan

    given = [
        f"{_KEYS[name]}={_word(value)}" for name, value in options.items() if value is not None
    ]
    has_recipe = bool(words) and ("=" not in words[0] or Path(words[0]).exists())
    if options["steps"] is not None and options["epochs"] is not None:
        raise UsageError("give either --steps or --epochs")
    if has_recipe:
        loaded = load_recipe(words[0], ("privacy.enabled=true", *words[1:], *given))
    else:
        loaded = _without_recipe(words, examples, options, given)
    with progress("reading") as relabel:
        found = plan_of(loaded, units=examples or 0, with_model=has_recipe, progress=relabel)
    emit(as_json, found, render_plan)


def _word(value: object) -> str:
    return toml_value(str(value)) if isinstance(value, Path | str) else str(value)


def _without_recipe(
    words: tuple[str, ...], examples: int | None, options: dict[str, Any], given: list[str]
) -> LoadedRecipe:
    """Return a recipe of nothing but the numbers given."""
    from trainer.recipe.parse import parse_recipe

    counted = options["steps"] is not None or options["epochs"] is not None
    if examples is None or options["batch"] is None or not counted:
        raise UsageError(f"name a recipe, or give {_NEEDED}")
    overrides = ("privacy.enabled=true", "optimizer.warmup_steps=0", *words, *given)
    recipe = parse_recipe("", where="the command line", folder=Path.cwd(), overrides=overrides)
    return LoadedRecipe(recipe, options["dataset"] or "data", "", overrides)


@command.group("ledger")
def ledger_group() -> None:
    """The ledger of what was released of a data set, and its owner's budget."""


@ledger_group.command("init")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="Name of the data that the budget is for.")
@click.option("--epsilon", type=float, required=True, help="All releases together at most.")
@click.option("--delta", type=float, required=True, help="At this delta.")
@click.option(
    "--unit",
    type=click.Choice(["record", "user"]),
    default="record",
    show_default=True,
    help="Whom the budget protects.",
)
@json_option
def ledger_init(
    *, path: Path, dataset: str, epsilon: float, delta: float, unit: str, as_json: bool
) -> None:
    """Make the ledger PATH with the budget that the data's owner sets.

    The trainer cannot exceed it, and it cannot be changed later.

    \b
    Example:
      casemate privacy ledger init tickets.ledger --dataset tickets --epsilon 8 --delta 1e-6
    """
    from trainer.commands.privacy_ledger import make_ledger, render_ledger

    emit(as_json, make_ledger(path, dataset, epsilon, delta, unit), render_ledger)


@ledger_group.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--delta", type=float, help="At this delta.  [default: the budget's]")
@json_option
def ledger_show(*, path: Path, delta: float | None, as_json: bool) -> None:
    """Verify the ledger PATH and show what was released, and what is left."""
    from trainer.commands.privacy_ledger import read, render_ledger

    with progress("accounting"):
        found = read(path, delta)
    emit(as_json, found, render_ledger)


@command.command("audit")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--canaries",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="canaries.json of the run.  [default: the one in its folder]",
)
@click.option(
    "--members",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Files of records that it was trained on.",
)
@click.option(
    "--nonmembers",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Files of like records that it was not trained on.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Model to calibrate by, such as the one that training started from.",
)
@click.option(
    "--epsilon", type=float, help="Claim to compare with.  [default: what its privacy.json claims]"
)
@click.option("--delta", type=float, help="Of that claim.")
@click.option("--record", is_flag=True, help="Put what was found into its privacy.json.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="At a time.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
@json_option
def audit_command(*, checkpoint: Path, as_json: bool, **options: Any) -> None:
    """Attack CHECKPOINT, a run's folder or a model, and say what it reveals at least.

    With the canaries of its run this gives a lower bound on epsilon, which a true claim is
    above; with members and nonmembers it says how well the two can be told apart. Exits
    with 1 if the claim is contradicted.

    \b
    Example:
      casemate privacy audit runs/tickets --epsilon 8
      casemate privacy audit runs/tickets --members train.tsv --nonmembers held-out.tsv
    """
    from trainer.commands.privacy_audit import audit_of, render_audit

    with progress("loading") as relabel:
        found = audit_of(checkpoint, **options, progress=relabel)
    emit(as_json, found, render_audit)
    if found["contradicted"]:
        raise SystemExit(1)


@command.command("compare")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("words", nargs=-1, metavar="[data.KEY=VALUE]...")
@click.option(
    "--twin",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The same run without privacy; left out, the command that makes it is named.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="File or directory that neither was trained on.",
)
@click.option("--group-field", default="", help="Compare by the values of this field, too.")
@click.option(
    "--start",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="For text: the model that both began with, to say how much of the gain is kept.",
)
@click.option("--record", is_flag=True, help="Put what was found into its privacy.json.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="At a time.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
@json_option
def compare_command(
    *, checkpoint: Path, words: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Say what privacy cost CHECKPOINT, a private run or model, beside its twin.

    The twin is what the same recipe gives without privacy. Both are measured on the same
    examples, over all and for each label, with intervals; whom privacy costs more than the
    rest is said. --record puts it into privacy.json and privacy.html.

    \b
    Example:
      casemate finetune runs/tickets/recipe.toml privacy.enabled=false -o runs/tickets-twin
      casemate privacy compare runs/tickets --twin runs/tickets-twin --data test.tsv --record
    """
    from trainer.commands.privacy_compare import compare_of, render_compare

    with progress("loading") as relabel:
        found, utility = compare_of(checkpoint, overrides=words, **options, progress=relabel)
    emit(as_json, found, lambda data: render_compare(data, utility))


@command.command("synthesize")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--count", type=int, required=True, help="Texts to write.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File of texts, JSONL; its claim is written beside it.",
)
@click.option("--prompt", multiple=True, help="Public beginning of texts; may be repeated.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File of public beginnings, one a line.",
)
@click.option("--temperature", type=float, default=1.0, show_default=True, help="0: the likeliest.")
@click.option("--top-k", type=int, default=0, help="Choose from so many tokens; 0: all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="From this share.")
@click.option("--max-tokens", type=int, default=0, help="New tokens of a text; 0: as in training.")
@click.option("--seed", type=int, help="The same texts again.  [default: none]")
@click.option("--batch", type=int, default=32, show_default=True, help="At a time.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
@json_option
def synthesize_command(
    *,
    checkpoint: Path,
    count: int,
    output: Path,
    prompt: tuple[str, ...],
    prompts: Path | None,
    device: str,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Write texts like the private ones, with the claim of CHECKPOINT's privacy.json.

    For tests of a site that may not see the data. Any number of texts has the model's own
    epsilon, because nothing but its weights is looked at; prompts must be public.

    \b
    Example:
      casemate privacy synthesize runs/tickets --count 1000 -o tickets.jsonl
      casemate privacy check tickets.jsonl --model runs/tickets
    """
    from trainer.commands.privacy_synthesize import render_samples, samples_of
    from trainer.privacy.synthesis.settings import Sampling

    sampling = Sampling(**drawing)
    with progress("verifying") as relabel:
        found = samples_of(
            checkpoint,
            output,
            count,
            sampling=sampling,
            prompt=prompt,
            prompts=prompts,
            device=device,
            progress=relabel,
        )
    emit(as_json, found, render_samples)


@command.command("check")
@click.argument("samples", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkpoint that wrote them: hold the claim against its privacy.json too.",
)
@json_option
def check_command(*, samples: Path, model: Path | None, as_json: bool) -> None:
    """Hold SAMPLES of `synthesize` against the claim beside them.

    \b
    Example:
      casemate privacy check tickets.jsonl --model runs/tickets
    """
    from trainer.commands.privacy_synthesize import checked, render_checked

    with progress("verifying"):
        found = checked(samples, model)
    emit(as_json, found, render_checked)
