"""``refold run``: real processes that go on until a signal, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refold
from live_cli import WITH_SHORT_LEASE, Running, Shell, eventually
from refold import Status
from refold.cli import run as live_console
from refold.embedded import EmbeddedNats
from servers import free_port, run

MakeNats = Callable[..., EmbeddedNats]


@pytest.fixture(params=["sqlite_url", "postgres_url"])
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
    """On SQLite alone, and not waiting long for what is away."""
    return Shell(
        tmp_path,
        REFOLD_NATS_URL=nats.url,
        REFOLD_DATABASE_URL=sqlite_url,
        REFOLD_STREAM=stream_name,
        REFOLD_SUBJECT_PREFIX=stream_name,
        REFOLD_STARTUP_TIMEOUT="0.5",
    )


def lines_of(running: Running, name: str) -> list[str]:
    """What was said of a projection, without the time."""
    return [line[20:].rstrip() for line in running.lines if f" {name}: " in line]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_views_are_built_then_kept_up_to_date_until_a_signal(shell: Shell, number: int) -> None:
    shell.publish(("a", 1), ("b", 2))
    with shell.started("run") as running:
        running.says("totals: live at position 2", "counts: live at position 2")
        shell.publish(("a", 5))
        shell.stands("totals", position=3, status=Status.LIVE)
        assert shell.total("a") == 6
        assert running.end(number) == 0
        assert running.printed == ""
    assert lines_of(running, "totals")[0] == "totals: rebuilding: built from the beginning"
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in running.lines), running.said
    assert "ended in order" in running.lines[-1]
    left = shell.checkpoint("totals")
    assert left is not None
    assert (left.status, left.position) == (Status.STOPPED, 3)

    shell.publish(("b", 7))
    with shell.started("run", "totals") as again:
        again.says("totals: live at position 4")
        assert again.end(number) == 0
    assert "rebuilding" not in again.said
    assert "counts" not in again.said
    assert shell.total("b") == 9


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(quick: Shell, number: int, code: int) -> None:
    quick.publish(("a", 99))  # keeps its handler busy for a minute
    with quick.started("run") as running:
        eventually((quick.folder / "slow").exists, lambda: running.said)
        eventually(lambda: told_again(running, number), lambda: running.said, deadline=5)
        assert running.wait() == code
    assert "told twice" in running.lines[-1]


def told_again(running: Running, number: int) -> bool:
    running.process.send_signal(number)
    return running.process.poll() is not None


PROGRAM = """
import sys
import refold, ledger

refold.run(ledger.app, ledger.Totals, grace=float(sys.argv[-1]), hook=lambda event: print(event, file=sys.stderr))
print("and on it goes", flush=True)
"""


def test_a_program_runs_an_app_and_goes_on_after_the_signal(quick: Shell) -> None:
    quick.publish(("a", 1))
    with quick.started("10", code=PROGRAM) as running:
        running.says("Status.LIVE")
        assert running.end() == 0
        assert running.printed == "and on it goes\n"


def test_what_does_not_end_in_time_is_ended(quick: Shell) -> None:
    quick.publish(("a", 99))
    with quick.started("0.2", code=PROGRAM) as running:
        eventually((quick.folder / "slow").exists, lambda: running.said)
        assert running.end() == 1
        assert "it did not end within 0.2 s" in running.said


def test_a_signal_while_it_connects_ends_it_in_order(quick: Shell) -> None:
    port = free_port()
    with quick.started("run", REFOLD_NATS_URL=f"nats://127.0.0.1:{port}", REFOLD_STARTUP_TIMEOUT="60") as running:
        running.says("trying again")
        assert running.end() == 0


def test_a_process_that_was_replaced_stops_with_the_reason(shell: Shell) -> None:
    shell.publish(("a", 1))
    with shell.started("run", code=WITH_SHORT_LEASE) as old:
        old.says("totals: live", "counts: live")
        old.process.send_signal(signal.SIGSTOP)
        with shell.started("run", code=WITH_SHORT_LEASE) as new:
            new.says("totals: live", "counts: live")
            shell.publish(("a", 2))
            shell.stands("totals", position=2)
            old.process.send_signal(signal.SIGCONT)
            assert old.wait() == 2
            assert old.lines[-1].startswith("refold: ")
            assert str(new.process.pid) in old.lines[-1], old.said
            assert new.end() == 0
    assert shell.total("a") == 3


def test_what_another_process_runs_is_refused(shell: Shell) -> None:
    shell.publish(("a", 1))
    with shell.started("run") as running:
        running.says("totals: live", "counts: live")
        with shell.started("run", "totals", code=WITH_SHORT_LEASE) as other:
            other.says("totals: stopped: projection 'totals' version 1 is run by")
            assert other.wait() == 2
            assert other.lines[-1].startswith("refold: ")
            assert str(running.process.pid) in other.lines[-1], other.said
            assert other.said.count("totals: stopped") == 2  # as it begins to wait, and as it gives up
        assert running.end() == 0


def test_wrong_names_are_told_at_once(quick: Shell) -> None:
    done = quick("run", "nonsense", REFOLD_NATS_URL="nats://127.0.0.1:1")
    assert (done.returncode, done.stderr) == (
        2,
        "refold: projection 'nonsense' is not registered; there are: counts, totals\n",
    )


# -- What goes wrong, and what to check ------------------------------------------------------------------------------------


def test_nats_is_not_there(quick: Shell) -> None:
    done = quick("run", REFOLD_NATS_URL="nats://127.0.0.1:1")
    assert done.returncode == 2
    *waiting, error = done.stderr.splitlines()
    assert waiting
    assert all("trying again" in line and "nats" in line for line in waiting)
    assert error.startswith("refold: no connection to NATS at nats://127.0.0.1:1")
    assert "check the URL and that the server runs" in error


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("jetstream: disabled", "start the server with JetStream on"),
        ("accounts { A { users: [ { user: a, password: a } ] } }\nno_auth_user: a", "check the account"),
    ],
    ids=["server", "account"],
)
def test_jetstream_is_off(quick: Shell, own_nats: MakeNats, config: str, words: str) -> None:
    server = own_nats(config=config)
    run(server.start())
    try:
        with quick.started("run", "totals", REFOLD_NATS_URL=server.url) as running:
            running.says("totals: new: it could not be built: ", words)
            assert running.end() == 0
    finally:
        run(server.stop())


def test_the_stream_is_missing_and_comes_later(quick: Shell) -> None:
    with quick.started("run", "totals") as running:
        running.says(
            "totals: new: it could not be built: ", "does not exist; create it, publish to it, or check its name"
        )
        quick.publish(("a", 1))
        running.says("totals: live at position 1")
        assert running.end() == 0
    assert len([line for line in lines_of(running, "totals") if "does not exist" in line]) == 1


def test_an_event_cannot_be_decoded(quick: Shell) -> None:
    quick.publish(("a", 1))
    with quick.started("run", "totals") as running:
        running.says("totals: live at position 1")
        quick.publish(("a", {"amount": "many"}), ("a", 2))
        running.says("totals: dead letter: position 2: ", "(refold dead-letters list)")
        quick.stands("totals", position=3)
        assert running.end() == 0


def test_an_event_halts_a_projection(quick: Shell) -> None:
    quick.publish(("a", 1))
    with quick.started("run", "totals", ON_ERROR="halt") as running:
        running.says("totals: live at position 1")
        quick.publish(("a", 13))
        running.says("totals: faulted at position 1: ", "position 2", "unlucky", "refold skip totals --position 2")
        quick.stands("totals", status=Status.FAULTED)
        assert running.end() == 0
    left = quick.checkpoint("totals")
    assert left is not None
    assert (left.status, "unlucky" in left.reason) == (Status.FAULTED, True)


def test_the_consumer_is_not_permitted(quick: Shell, own_nats: MakeNats, stream_name: str) -> None:
    allowed = [f"$JS.API.STREAM.INFO.{stream_name}", f"$JS.API.STREAM.MSG.GET.{stream_name}"]
    rights = json.dumps({"publish": {"allow": allowed}, "subscribe": {"allow": ["_INBOX.>"]}})
    admin = {"user": "adm", "password": "adm"}
    users = f"{{ user: adm, password: adm }}, {{ user: u, password: u, permissions: {rights} }}"
    server = own_nats(config=f"authorization {{ users: [ {users} ] }}")
    run(server.start())
    try:
        quick.settings |= {"REFOLD_NATS_URL": server.url}
        quick.settings |= {f"REFOLD_NATS_{name.upper()}": value for name, value in admin.items()}
        quick.publish(("a", 1))
        u: dict[str, Any] = {"REFOLD_NATS_USER": "u", "REFOLD_NATS_PASSWORD": "u"}
        words = f"may not publish to '$JS.API.CONSUMER.CREATE.{stream_name}"
        with quick.started("run", "totals", **u) as running:
            running.says("totals: new: it could not be built: ", words, "check its permissions")
            assert running.end() == 0
        assert quick("rebuild", "totals").returncode == 0
        with quick.started("run", "totals", **u) as running:
            running.says("totals: degraded at position 1: ", words, "check its permissions")
            quick.stands("totals", status=Status.DEGRADED)
            assert running.end() == 0
    finally:
        run(server.stop())


def test_what_the_log_says_twice_is_left_out_of_it() -> None:
    """The messages are constant, and this holds them to what the engine writes."""
    source = "".join(path.read_text() for path in (Path(refold.__file__).parent).rglob("*.py") if path.name != "run.py")
    for message in live_console._TOLD_BY_HOOKS | live_console._WORTH_TELLING:
        assert f'"{message}"' in source
