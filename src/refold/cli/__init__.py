"""The command line: ``refold [--app module:attribute] COMMAND``.

Exit codes: 0 done; 1 done, but events or lines could not be used, a check failed, or a projection needs help; 2 a mistake,
a server that is away, a rebuild halted by its policy, or a projection that another process runs, said in one line; 130 or
143 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from refold.cli.context import Context
from refold.errors import RefoldError

__all__ = ["main"]

cli = typer.Typer(
    name="refold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turn the events of NATS JetStream streams into read models, keep them up to date, and rebuild them fast.",
)
bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Measure refold on this machine.")
letters = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look after events that were not applied.")
cli.add_typer(letters, name="dead-letters")
cli.add_typer(bench, name="bench")


class _WithDetails(logging.Formatter):
    """Log lines with what their records say beside the message."""

    _known = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        details = [f"{name}={value}" for name, value in vars(record).items() if name not in self._known]
        return " ".join([super().format(record), *details])


@cli.callback()
def options(
    context: typer.Context,
    app: Annotated[
        str | None,
        typer.Option(envvar="REFOLD_APP", metavar="MODULE:ATTRIBUTE", help="Where the App is, as shop.app:app."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    """Options for every command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithDetails("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler])
    if not verbose:
        logging.getLogger("refold.container").setLevel(logging.WARNING)  # it may wait for servers: say for which
    if (
        not verbose
    ):  # what the client says of a connection that is being closed is of no use; refold tells what is wrong
        logging.getLogger("nats").setLevel(logging.CRITICAL)
    context.obj = Context(app, verbose)


def main() -> None:
    """Runs the command line and exits."""
    from refold.cli import commands, live

    commands.add_to(cli, bench)
    live.add_to(cli, letters)
    try:
        cli(standalone_mode=True)
    except RefoldError as error:
        sys.stderr.write(f"refold: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
