"""The commands of live running, as thin as can be: arguments in, a call, its result shown."""

from __future__ import annotations

from typing import Annotated

import typer

from refold.cli.commands import exit_with
from refold.cli.context import Context
from refold.ports import Wanted

__all__ = ["add_to"]

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A projection.")]
_Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Projections; all by default.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(cli: typer.Typer, letters: typer.Typer) -> None:
    """Adds every command."""
    for command in (run, status, pause, resume, reset, skip):
        cli.command()(command)
    letters.command("list")(list_letters)
    letters.command("show")(show_letter)
    letters.command("retry")(retry_letters)
    letters.command("discard")(discard_letters)


def run(
    context: typer.Context,
    names: _Names = None,
    accept_truncated: Annotated[
        bool,
        typer.Option("--accept-truncated", help="Go on though events that were not read are gone from the stream."),
    ] = False,
) -> None:
    """Keep views up to date until SIGINT or SIGTERM; build those that are new first.

    After the first signal it finishes what it is at, within 10 seconds; at a second one it ends at once.
    """
    from refold.cli.run import run_live

    holder: Context = context.obj
    run_live(holder.load(), names or [], accept_truncated=accept_truncated, verbose=holder.verbose)


def status(
    context: typer.Context,
    names: _Names = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second, until Ctrl-C.")] = False,
    as_json: _Json = False,
) -> None:
    """Show state, position, lag and dead letters.

    Exit code 1: a projection is degraded or faulted, or the stream is not the one that it read. 2: something could not be
    told, as the lag while NATS is away.
    """
    from refold.cli.status import run_status

    holder: Context = context.obj
    exit_with(run_status(holder.load(), names or [], watch=watch, as_json=as_json))


def pause(context: typer.Context, name: _Name) -> None:
    """Stop keeping a projection up to date, in whatever process, until it is resumed."""
    _order(context, name, Wanted.PAUSE)


def resume(context: typer.Context, name: _Name) -> None:
    """Let a paused projection go on, and try a faulted one again."""
    _order(context, name, Wanted.RUN)


def reset(context: typer.Context, name: _Name, yes: _Yes = False) -> None:
    """Build all views of a projection anew; readers see the old ones until that is done."""
    _order(context, name, Wanted.REBUILD, yes=yes)


def skip(
    context: typer.Context,
    name: _Name,
    position: Annotated[int | None, typer.Option(min=1, help="The event's position in the stream.")] = None,
) -> None:
    """Pass over one event, which becomes a dead letter, and go on."""
    from refold.cli.orders import run_skip

    holder: Context = context.obj
    exit_with(run_skip(holder.load(), name, position))


def list_letters(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of one projection only.")] = None,
    key: Annotated[str | None, typer.Option(help="Of one view only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    as_json: _Json = False,
) -> None:
    """List events that were not applied, and why."""
    from refold.cli.letters import run_list

    holder: Context = context.obj
    exit_with(run_list(holder.load(), name, key=key, limit=limit, as_json=as_json))


def show_letter(
    context: typer.Context,
    name: _Name,
    position: Annotated[int, typer.Option(min=1, help="The event's position in the stream.")],
    key: Annotated[str | None, typer.Option(help="Of one view only.")] = None,
    as_json: _Json = False,
) -> None:
    """Show one event that was not applied, whole."""
    from refold.cli.letters import run_show

    holder: Context = context.obj
    exit_with(run_show(holder.load(), name, position, key=key, as_json=as_json))


def retry_letters(
    context: typer.Context,
    name: _Name,
    key: Annotated[str | None, typer.Option(help="Of this quarantined view.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Of all quarantined views.")] = False,
) -> None:
    """Apply the events of a quarantined view in order, all or none, and lift its quarantine."""
    from refold.cli.letters import run_retry

    holder: Context = context.obj
    exit_with(run_retry(holder.load(), name, key=key, every=every))


def discard_letters(
    context: typer.Context,
    name: _Name,
    key: Annotated[str | None, typer.Option(help="Of one view only.")] = None,
    position: Annotated[int | None, typer.Option(min=1, help="Of one event only.")] = None,
    yes: _Yes = False,
) -> None:
    """Throw dead letters away for good; views that have none left are quarantined no more."""
    from refold.cli.letters import run_discard

    holder: Context = context.obj
    exit_with(run_discard(holder.load(), name, key=key, position=position, yes=yes))


def _order(context: typer.Context, name: str, wanted: Wanted, *, yes: bool = True) -> None:
    from refold.cli.orders import run_order

    holder: Context = context.obj
    exit_with(run_order(holder.load(), name, wanted, yes=yes))
