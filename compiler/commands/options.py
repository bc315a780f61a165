"""Options that several of the compiler's commands take, and how their failures are told."""

from __future__ import annotations

import errno
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from casemate.cli.output import progress, warn
from security.bundle.manifest import MAX_VERSION_CHARS, NAME, SEMVER
from security.errors import CasemateError

if TYPE_CHECKING:
    from compiler.bundling.tuned import Tuning
    from compiler.progress import Progress
    from compiler.tune.promise import Promise

TASKS = ("generate", "embed", "classify", "tensor")
QUALITIES = ("exact", "near-lossless", "balanced", "small")
DEFAULT_QUALITY = "near-lossless"
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])

_BOUNDS = (
    ("max-kl", "Largest mean KL divergence from the model as given, in nats."),
    ("min-top1", "Smallest share of positions with the same first choice."),
    ("max-perplexity-ratio", "Largest perplexity, as a multiple of the given model's."),
    ("max-accuracy-drop", "Largest loss of accuracy, as a share."),
    ("min-spearman", "Smallest rank correlation of similarities."),
)


class Instant(click.ParamType[datetime]):
    """A date (midnight UTC) or an RFC 3339 time in UTC, as an aware datetime."""

    name = "DATE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parse `2027-01-31` or `2027-01-31T12:00:00Z`."""
        for layout in ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"):
            try:
                return datetime.strptime(str(value), layout).replace(tzinfo=UTC)
            except ValueError:
                continue
        self.fail(f"{value!r} is no date such as 2027-01-31 or 2027-01-31T12:00:00Z", param, ctx)


def converter_option(function: F) -> F:
    """Add `--converter`, for decoders that the compiler does not export itself."""
    return click.option(
        "--converter",
        type=PATH,
        help="llama.cpp's convert_hf_to_gguf.py or its folder, for decoders that are not "
        "exported here.  [default: CASEMATE_LLAMA_CPP]",
    )(function)


def texts_options(function: F) -> F:
    """Add the texts that quality is judged on: plain ones, or labelled ones."""
    plain = click.option(
        "--calibration", type=FILE, help="Texts of the kind to be served, one a line."
    )
    labelled = click.option(
        "--labelled",
        type=FILE,
        help="For classifiers instead: .tsv, .csv or .jsonl of texts and labels.",
    )
    return plain(labelled(function))


def search_options(function: F) -> F:
    """Add how long a search may take, and for what load."""
    budget = click.option(
        "--budget", default="20m", show_default=True, help="Time to search, per target."
    )
    load = click.option(
        "--for",
        "load",
        default="1",
        show_default=True,
        metavar="LOAD",
        help="What to be fast at: a number of clients, prefill, or size.",
    )
    return budget(load(function))


def tuning_of(options: dict[str, Any]) -> Tuning:
    """Return how to search, of the options of `search_options`."""
    from compiler.bundling.tuned import Tuning
    from compiler.tune.choose import Load
    from compiler.tune.clock import parse_duration
    from compiler.words import printable

    return Tuning(
        load=Load.parse(options["load"]),
        budget_seconds=parse_duration(options["budget"]),
        command=("casemate", *(printable(word) for word in sys.argv[1:])),
    )


def bundle_options(function: F) -> F:
    """Add what a new bundle says of itself; all arrive under their names."""
    options = [
        click.option("--task", type=click.Choice(TASKS), help="Insist on a task."),
        click.option(
            "--epoch",
            type=click.IntRange(min=0),
            default=1,
            show_default=True,
            help="Security epoch: an appliance never goes below the highest it has seen.",
        ),
        click.option("--license-file", type=FILE, help="License text to carry along."),
        click.option(
            "--chat-template", type=FILE, help="Jinja template for chat messages; gets signed."
        ),
        click.option(
            "--chat-template-from-source",
            is_flag=True,
            help="Take the chat template that came with the model; read it before you sign.",
        ),
        click.option(
            "--context",
            type=click.IntRange(min=1),
            help="Longest context to serve, in tokens.  [default: the model's, at most 2048]",
        ),
        click.option(
            "--max-sequences",
            type=click.IntRange(min=1, max=256),
            default=16,
            show_default=True,
            help="Requests to work on at once.",
        ),
        converter_option,
        click.option("--not-after", type=Instant(), help="When appliances stop opening it (UTC)."),
        click.option(
            "--probes/--no-probes",
            default=True,
            help="Run the bundle once and record golden requests; an appliance installs none "
            "without.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def request_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the bundle options as fields of a CreateRequest.

    Raises:
        click.UsageError: two of them contradict each other.
    """
    if options["chat_template"] is not None and options["chat_template_from_source"]:
        raise click.UsageError("give --chat-template or --chat-template-from-source, not both")
    return {
        "task": options["task"],
        "security_epoch": options["epoch"],
        "license_file": options["license_file"],
        "chat_template_file": options["chat_template"],
        "chat_template_from_source": options["chat_template_from_source"],
        "context_tokens": options["context"],
        "max_sequences": options["max_sequences"],
        "not_after": options["not_after"],
        "probes": options["probes"],
        "converter": options["converter"],
    }


def promise_options(function: F) -> F:
    """Add the quality that is promised: a name, and bounds."""
    for name, text in reversed(_BOUNDS):
        function = click.option(f"--{name}", type=float, help=text)(function)
    return click.option(
        "--quality",
        type=click.Choice(QUALITIES),
        help=f"Named bounds.  [default: {DEFAULT_QUALITY}]",
    )(function)


def promise_of(options: dict[str, Any]) -> Promise:
    """Return the promise of the options: a named quality, changed by the bounds given.

    Raises:
        click.UsageError: a bound on accuracy without labelled texts.
        SearchError: a bound that is out of range.
    """
    from compiler.tune.promise import make_promise

    bounds = {name.replace("-", "_"): options[name.replace("-", "_")] for name, _ in _BOUNDS}
    if bounds["max_accuracy_drop"] is not None and options["labelled"] is None:
        raise click.UsageError(
            "--max-accuracy-drop needs labelled texts to measure accuracy on: give --labelled FILE"
        )
    name = options["quality"]
    if name is None and all(bound is None for bound in bounds.values()):
        name = DEFAULT_QUALITY
    return make_promise(name, **bounds)


def default_name(output: Path) -> str:
    """Return a bundle's name made of its folder's, as the format allows it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", output.name.lower()).strip("._-")[:64]
    if not name:
        raise click.UsageError("give the model a --name")
    return name


def require_name(name: str) -> str:
    """Return a model's name; a usage error, before any work, where the format forbids it."""
    if NAME.fullmatch(name) is None:
        raise click.BadParameter(
            f"{name!r}: small letters, digits and . _ - (64 at most, not first)",
            param_hint="--name",
        )
    return name


def require_version(version: str) -> str:
    """Return a version; a usage error, before any work, where it is no semantic version."""
    if SEMVER.fullmatch(version) is None or len(version) > MAX_VERSION_CHARS:
        raise click.BadParameter(
            f"{version!r} is no semantic version such as 1.0.0", param_hint="--version"
        )
    return version


@contextmanager
def _terminated() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for Ctrl-C: what is unfinished is left in the same order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # One that is ignored stays so: nohup lets work go on when its terminal closes.
    numbers = (signal.SIGTERM, signal.SIGHUP)
    taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def working(label: str, output: Path, kept: Path | None = None) -> Iterator[Progress]:
    """Show progress; turn an interruption and a full disk into one line that says what is left.

    Args:
        label: what is shown first.
        output: what is being made, for errors.
        kept: where unfinished work is kept, or None where none is.
    """

    from compiler.bundling.workfolder import holds_work
    from compiler.errors import WorkFolderError

    def left() -> str:
        if kept is not None and holds_work(kept):
            return f"; what is done lies in {kept}, and the same command goes on from there"
        return ""

    # A log of hours without a line looks like a process that hangs.
    with progress(label, lines=True) as relabel:

        def shown(text: str, fraction: float) -> None:
            relabel(f"{text} · {fraction:.0%}" if fraction > 0 else text)

        try:
            with _terminated():
                yield shown
        except OSError as error:
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
            raise click.ClickException(f"{error.filename or output}: {what}{left()}") from error
        except KeyboardInterrupt as error:
            raise click.ClickException(f"interrupted; {output} was not made{left()}") from error
        except WorkFolderError:
            raise
        except CasemateError:
            if kept is not None and holds_work(kept):
                warn(f"what was done before lies in {kept}: another try uses it; or remove it.")
            raise
