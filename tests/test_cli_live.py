"""``refold status``, orders and dead letters, as commands of their own beside processes that run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from live_cli import MAIN, Shell, eventually
from refold import Status
from refold.embedded import EmbeddedNats
from refold.ports import LetterKind
from servers import free_port, run


@pytest.fixture(params=["sqlite_url", pytest.param("postgres_url", marks=pytest.mark.soak)])
def shell(request: pytest.FixtureRequest, nats: EmbeddedNats, stream_name: str, tmp_path: Path) -> Shell:
    return Shell(
        tmp_path,
        REFOLD_NATS_URL=nats.url,
        REFOLD_DATABASE_URL=request.getfixturevalue(request.param),
        REFOLD_STREAM=stream_name,
        REFOLD_SUBJECT_PREFIX=stream_name,
    )


@pytest.fixture
def quick(nats: EmbeddedNats, stream_name: str, tmp_path: Path, sqlite_url: str) -> Shell:
    """On SQLite alone, for what no store has a part in."""
    return Shell(
        tmp_path,
        REFOLD_NATS_URL=nats.url,
        REFOLD_DATABASE_URL=sqlite_url,
        REFOLD_STREAM=stream_name,
        REFOLD_SUBJECT_PREFIX=stream_name,
    )


def statuses(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What ``refold status --json`` says, by projection."""
    return {one["projection"]: one for one in json.loads(done.stdout)}


# -- Status ----------------------------------------------------------------------------------------------------------------


def test_how_projections_stand(shell: Shell) -> None:
    shell.publish(("a", 1), ("b", 2))
    new = shell("status", "--json")
    totals = statuses(new)["totals"]
    assert (new.returncode, totals["status"], totals["position"], totals["head"]) == (0, "new", None, 2)
    assert (totals["lag_events"], totals["lag_seconds"]) == (None, None)
    table = shell("status").stdout
    assert "totals: never built: refold run, or refold rebuild totals" in table
    assert "live" not in table

    with shell.started("run") as running:
        running.says("totals: live", "counts: live")
        shell.stands("totals", status=Status.LIVE)
        shell.stands("counts", status=Status.LIVE)
        live = shell("status", "--json")
        totals = statuses(live)["totals"]
        assert (live.returncode, totals["status"], totals["position"], totals["lag_events"]) == (0, "live", 2, 0)
        assert (totals["lag_seconds"], totals["rate"], totals["unknown"]) == (0.0, None, "")
        assert f":{running.process.pid}" in totals["owner"]
        assert list(statuses(live)) == ["totals", "counts"]
        assert list(statuses(shell("status", "--json", "counts"))) == ["counts"]
        assert running.end() == 0

    shell.publish(("a", 5), ("a", 6), ("a", 7))
    behind = statuses(shell("status", "--json"))["totals"]
    assert (behind["status"], behind["head"], behind["lag_events"]) == ("stopped", 5, 3)
    assert behind["lag_seconds"] > 0
    assert "stopped" in shell("status").stdout


def test_status_without_nats_shows_what_there_is_and_says_so(quick: Shell) -> None:
    quick.publish(("a", 1))
    assert quick("rebuild", "totals").returncode == 0
    away = {"REFOLD_NATS_URL": f"nats://127.0.0.1:{free_port()}"}
    done = quick("status", "--json", "totals", **away)
    totals = statuses(done)["totals"]
    assert (done.returncode, totals["position"], totals["head"], totals["lag_events"]) == (2, 1, None, None)
    assert "check the URL and that the server runs" in totals["unknown"]
    assert "cannot be asked: no connection to NATS" in quick("status", **away).stdout


def test_status_with_a_degraded_projection_exits_with_1(quick: Shell) -> None:
    quick.publish(("a", 1), ("a", 13), ("a", 2), ("b", 13))
    with quick.started("run", "totals") as running:
        running.says("totals: degraded at position 4: 2 views are quarantined")
        quick.stands("totals", status=Status.DEGRADED)
        done = quick("status", "--json", "totals")
        totals = statuses(done)["totals"]
        assert (done.returncode, totals["dead_letters"], totals["quarantined"]) == (1, 3, 2)
        assert "2 views are quarantined" in totals["reason"]
        assert running.end() == 0


def test_status_of_another_stream_under_the_same_name_exits_with_1(quick: Shell) -> None:
    quick.publish(("a", 1), ("a", 2))
    assert quick("rebuild", "totals").returncode == 0

    async def make_anew() -> None:
        async with quick.app() as app:
            await app.client.jetstream().delete_stream(app.stream)
            await app.create_stream()

    run(make_anew())
    done = quick("status", "--json", "totals")
    totals = statuses(done)["totals"]
    assert (done.returncode, totals["lag_events"]) == (1, None)
    assert "was made anew" in totals["unknown"]
    assert "refold reset totals" in quick("status", "totals").stdout


def test_watching_looks_again_and_knows_rates(quick: Shell) -> None:
    quick.publish(("a", 1))
    with quick.started("run", "totals") as running, quick.started("status", "--watch", "--json", "totals") as watching:
        looks = read_looks(watching.process.stdout)
        assert next(looks)["rate"] is None
        eventually(lambda: next(looks)["position"] == 1)
        quick.publish(*(("a", 1) for _ in range(20)))
        assert eventually(lambda: (next(looks)["rate"] or 0) > 0)
        assert watching.end(signal.SIGINT) == 0
        assert running.end() == 0


def read_looks(lines: Any) -> Any:
    for line in lines:
        (one,) = json.loads(line)
        yield one


# -- Orders ----------------------------------------------------------------------------------------------------------------


def test_pausing_and_resuming_a_projection_that_runs(shell: Shell) -> None:
    shell.publish(("a", 1))
    with shell.started("run") as running:
        running.says("totals: live", "counts: live")
        done = shell("pause", "totals")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("totals: it pauses within a second or so; ")
        assert str(running.process.pid) in done.stdout
        shell.stands("totals", status=Status.PAUSED)
        shell.publish(("a", 2))
        shell.stands("counts", position=2)
        assert "paused" in shell("status").stdout
        paused = shell.checkpoint("totals")
        assert paused is not None
        assert paused.position == 1
        assert f":{running.process.pid}" in shell("resume", "totals").stdout
        shell.stands("totals", status=Status.LIVE, position=2)
        assert running.end() == 0
    assert shell.total("a") == 3


def test_orders_are_kept_until_somebody_runs_it(shell: Shell) -> None:
    shell.publish(("a", 1))
    never = shell("pause", "totals")
    assert (never.returncode, never.stdout) == (2, "")
    assert "totals was never built" in never.stderr
    assert shell("rebuild", "totals").returncode == 0
    done = shell("pause", "totals")
    assert done.stdout.startswith("totals: nobody runs it now; it stays paused when somebody runs it")
    assert "told to pause" in shell("status", "totals").stdout
    with shell.started("run", "totals") as running:
        running.says("totals: paused at position 1: paused by order; to go on: refold resume totals")
        assert running.end() == 0
    assert statuses(shell("status", "--json", "totals"))["totals"]["status"] == "paused"
    assert "else it goes on with the next refold run" in shell("resume", "totals").stdout
    with shell.started("run", "totals") as running:
        running.says("totals: live at position 1")
        assert running.end() == 0


def test_resetting_builds_anew_and_asks_first(shell: Shell) -> None:
    shell.publish(("a", 1))
    with shell.started("run", "totals") as running:
        running.says("totals: live")
        refused = shell("reset", "totals")
        assert (refused.returncode, "say so with --yes" in refused.stderr) == (2, True)
        assert shell("reset", "totals", "--yes").returncode == 0
        shell.stands("totals", generation=2, status=Status.LIVE)
        shell.publish(("a", 2))
        shell.stands("totals", generation=2, position=2)
        assert running.end() == 0
    assert shell.total("a") == 3


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_a_person_at_a_terminal_is_asked(quick: Shell, answer: str, code: int) -> None:
    quick.publish(("a", 1))
    assert quick("rebuild", "totals").returncode == 0
    terminal, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "--app", "ledger:app", "reset", "totals"],
            cwd=quick.folder,
            env=quick.environment({}),
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.DEVNULL,
        )
        said = b""
        while b"[y/N]" not in said:
            said += os.read(terminal, 1000)
        os.write(terminal, answer.encode() + b"\n")
        assert process.wait(20) == code
    finally:
        os.close(theirs)
        os.close(terminal)


def test_skipping_the_event_that_halts_a_projection(shell: Shell) -> None:
    shell.publish(("a", 1), ("a", 2))
    with shell.started("run", "totals", ON_ERROR="halt") as running:
        running.says("totals: live at position 2")
        shell.publish(("a", 13), ("a", 4))
        shell.stands("totals", status=Status.FAULTED)
        assert shell("status", "totals").returncode == 1
        unsaid = shell("skip", "totals")
        assert unsaid.returncode == 2
        assert "say which event: refold skip totals --position P" in unsaid.stderr
        assert "position 3" in unsaid.stderr
        past = shell("skip", "totals", "--position", "2")
        assert (past.returncode, "past position 2 already" in past.stderr) == (2, True)
        done = shell("skip", "totals", "--position", "3")
        assert (done.returncode, "the event at position 3 becomes a dead letter" in done.stdout) == (0, True)
        assert f":{running.process.pid}:" in done.stdout  # a fault is no sign that nobody runs it
        shell.stands("totals", status=Status.LIVE, position=4)
        assert running.end() == 0
    assert shell.total("a") == 7
    (letter,) = json.loads(shell("dead-letters", "list", "--json").stdout)
    assert (letter["position"], letter["kind"]) == (3, LetterKind.SKIPPED.value)


@pytest.mark.parametrize("command", ["pause", "resume", "reset", "skip", "status", "run"])
def test_names_that_are_not_registered(quick: Shell, command: str) -> None:
    done = quick(command, "nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "refold: projection 'nonsense' is not registered; there are: counts, totals\n"


# -- Dead letters ----------------------------------------------------------------------------------------------------------


def letters(shell: Shell) -> Shell:
    """Views ``a`` and ``b\\x1b`` are quarantined since positions 2 and 4; 5 is parked behind 4."""
    red = {"amount": 13, "note": "\x1b[31mred\x07\x9b"}
    shell.publish(("a", 1), ("a", 13), ("b\x1b", 1), ("b\x1b", red), ("b\x1b", 2))
    assert shell("rebuild", "totals", "--accept-incomplete").returncode == 1
    return shell


def test_listing_dead_letters(quick: Shell) -> None:
    letters(quick)
    found = json.loads(quick("dead-letters", "list", "--json").stdout)
    assert [(one["position"], one["key"], one["kind"]) for one in found] == [
        (2, "a", "failed"),
        (4, "b\x1b", "failed"),
        (5, "b\x1b", "parked"),
    ]
    assert "unlucky" in found[0]["reason"]
    shown = quick("dead-letters", "list", "totals")
    assert "unlucky" in shown.stdout
    assert shown.stdout.replace("\n", "").isprintable()
    assert "and more" in quick("dead-letters", "list", "--limit", "2").stdout
    assert "position" not in quick("dead-letters", "list", "counts").stdout
    assert len(json.loads(quick("dead-letters", "list", "--key", "a", "--json").stdout)) == 1


def test_showing_one_lets_no_control_character_out(quick: Shell) -> None:
    letters(quick)
    shown = quick("dead-letters", "show", "totals", "--position", "4")
    assert shown.returncode == 0
    assert shown.stdout.replace("\n", "").isprintable()
    assert '      "note": "\\x1b[31mred\\x07\\x9b"' in shown.stdout.replace("\\u001b", "\\x1b").replace(
        "\\u0007", "\\x07"
    )
    assert "account.b%1B.added" in shown.stdout
    (plain,) = json.loads(quick("dead-letters", "show", "totals", "--position", "4", "--json").stdout)
    assert json.loads(plain["body"])["payload"]["note"] == "\x1b[31mred\x07\x9b"
    none = quick("dead-letters", "show", "totals", "--position", "1")
    assert (none.returncode, "has no dead letter of position 1" in none.stderr) == (2, True)


def test_retrying_applies_what_was_parked_in_order(shell: Shell) -> None:
    letters(shell)
    again = shell("dead-letters", "retry", "totals", "--all")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.count("it fails again") == 2
    assert shell("dead-letters", "retry", "totals").returncode == 2
    assert shell("dead-letters", "retry", "totals", "--key", "c", MENDED="1").returncode == 2
    one = shell("dead-letters", "retry", "totals", "--key", "a", MENDED="1")
    assert (one.returncode, one.stdout) == (0, "totals: 1 event applied to view 'a', which is quarantined no more\n")
    assert shell.total("a") == 14
    rest = shell("dead-letters", "retry", "totals", "--all", MENDED="1")
    assert (rest.returncode, "2 events applied" in rest.stdout) == (0, True)
    assert shell.total("b\x1b") == 16
    assert shell("dead-letters", "list").stdout == "no dead letters\n"
    assert "no view is quarantined" in shell("dead-letters", "retry", "totals", "--all").stdout


def test_discarding(quick: Shell) -> None:
    letters(quick)
    asked = quick("dead-letters", "discard", "totals", "--key", "a")
    assert (asked.returncode, "1 dead letter" in asked.stderr, "--yes" in asked.stderr) == (2, True, True)
    assert quick("dead-letters", "discard", "totals", "--key", "a", "--yes").returncode == 0
    assert quick("dead-letters", "discard", "totals", "--position", "5", "--yes").returncode == 0
    left = json.loads(quick("dead-letters", "list", "--json").stdout)
    assert [one["position"] for one in left] == [4]
    assert quick("dead-letters", "discard", "totals", "--key", "a", "--yes").returncode == 2
    quick.publish(("a", 5))
    with quick.started("run", "totals") as running:
        quick.stands("totals", position=6)
        assert running.end() == 0
    assert quick.total("a") == 6
