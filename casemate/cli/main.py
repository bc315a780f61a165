"""Entry point: a click group that loads a sub-command when it is called.

Invariant: nothing but click and the table is imported before a sub-command is
chosen, so that `casemate --help` answers at once.
"""

from __future__ import annotations

import importlib
import sys

import click

from casemate import __version__
from casemate.cli.registry import COMMANDS, SECTIONS

# Exit codes: 0 done, 1 the operation failed or was refused, 2 wrong usage.
EXIT_FAILED = 1


class LazyGroup(click.Group):
    """A group whose members come from `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all sub-commands, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a sub-command; explain which extra is missing if any."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        try:
            module = importlib.import_module(entry.module)
        except ModuleNotFoundError as error:
            # A module of ours that is missing is a defect, not a missing extra.
            if entry.extra is None or (error.name or "").startswith(entry.module.split(".")[0]):
                raise
            raise click.ClickException(
                f"'casemate {cmd_name}' needs the {entry.extra} extra, which is not installed "
                f"(no module {error.name!r}). Install it: pip install 'casemate[{entry.extra}]'"
            ) from error
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.module}.command is no click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sub-commands by section, without importing any."""
        for section in SECTIONS:
            with formatter.section(section):
                formatter.write_dl(
                    [(name, e.summary) for name, e in COMMANDS.items() if e.section == section]
                )

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command; suggest the nearest name for a wrong one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"No such command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="casemate")
def cli() -> None:
    """Casemate: a private inference appliance for the edge.

    Start with `casemate init`, then `casemate bundle create`, `casemate sign`,
    `casemate install` and `casemate serve`. Every command explains itself with
    --help, and those that print a result take --json.
    """


def main() -> None:
    """Run the command; known errors become one line on stderr and exit code 1."""
    from casemate.cli.visible import visible
    from security.errors import CasemateError

    try:
        cli(prog_name="casemate")
    except CasemateError as error:
        click.echo(f"error: {visible(str(error))}", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
