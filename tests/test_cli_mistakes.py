"""What people get wrong on the command line ends with an exit code and a line that says what to do, never with a traceback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refold.embedded import EmbeddedNats

LEDGER = """
import msgspec
from refold import App, DomainEvent, Projector, View, event, on

@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int

class Total(View):
    total: int = 0

class Totals(Projector[Total], name="totals", aggregate="account", version=1):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        if event.payload.amount == 13:
            raise ValueError("unlucky")
        view.total += event.payload.amount

app = App("ledger")
app.register(Totals)
number = 5
"""

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(nats: EmbeddedNats, stream_name: str, tmp_path: Path) -> Shell:
    """Runs ``refold`` in a folder that has an app, with a stream of its own."""
    (tmp_path / "ledger.py").write_text(LEDGER)
    settings = {
        "REFOLD_NATS_URL": nats.url,
        "REFOLD_DATABASE_URL": "sqlite:///views.db",
        "REFOLD_STREAM": stream_name,
        "REFOLD_SUBJECT_PREFIX": stream_name,
        "REFOLD_STARTUP_TIMEOUT": "0.3",
    }

    def run(*arguments: str, stdin: str | bytes = "", **changed: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in (os.environ | settings | changed).items() if v is not None}
        done = subprocess.run(
            [sys.executable, "-c", "from refold.cli import main; main()", *arguments],
            cwd=tmp_path,
            env=environment,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    return run


def envelope(number: int, account: str, amount: Any = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "aggregate_id": account,
        "event_type": "added",
        "aggregate_type": "account",
        "timestamp": "2026-01-01T00:00:00Z",
        "version": number,
        "payload": {"amount": amount},
    } | changes


def lines(*envelopes: Any) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in envelopes)


def load(shell: Shell, stream: str, *envelopes: Any) -> None:
    done = shell("import", "-", "--stream", stream, stdin=lines(*envelopes))
    assert done.returncode == 0, done.stderr


def is_mistake(done: subprocess.CompletedProcess[str], said: str) -> None:
    """Exit code 2, and one line that says what is wrong."""
    assert done.returncode == 2, done.stderr
    assert said in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""


MODULES = {
    "raises": ("raise ValueError('no luck')", "ValueError: no luck"),
    "exits": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "broken": ("def (", "SyntaxError"),
    "needs": ("import nothing_of_the_kind", "No module named 'nothing_of_the_kind'"),
    "wrong_settings": ("from refold import App; app = App('x', codec='xml')", "codec 'xml' is not known"),
    "unknown_setting": ("from refold import App; app = App('x', colour='red')", "colour"),
    "bad_name": ("from refold import App; app = App('Big Shop')", "use lower-case letters"),
    "surly": ("def __getattr__(name): raise RuntimeError('not now')", "RuntimeError: not now"),
    "empty": ("from refold import App; app = App('x')", "has no projections"),
    "bad_projector": (
        "from refold import Projector, View\nclass P(Projector[View], name='Bad name'): pass",
        "name 'Bad name' is not",
    ),
}


@pytest.mark.parametrize("name", list(MODULES))
def test_modules_that_are_no_apps(shell: Shell, tmp_path: Path, name: str) -> None:
    source, said = MODULES[name]
    (tmp_path / f"{name}.py").write_text(source + "\n")
    is_mistake(shell("--app", f"{name}:app", "rebuild"), said)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("ledger", "is not module:attribute"),
        (":app", "is not module:attribute"),
        ("ledger:", "is not module:attribute"),
        ("ledger.app", "is not module:attribute"),
        ("../ledger:app", "cannot be imported"),
        ("..ledger:app", "cannot be imported"),
        ("nothing:app", "cannot be imported"),
        ("ledger:nothing", "has no attribute 'nothing'"),
        ("ledger:app.nothing", "has no attribute 'app.nothing'"),
        ("ledger:number", "is int, not a refold App"),
        ("ledger:Totals", "not a refold App"),
    ],
)
def test_apps_that_are_none(shell: Shell, app: str, said: str) -> None:
    is_mistake(shell("--app", app, "rebuild"), said)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("DATABASE_URL", "mysql://root@localhost/x", "no scheme that refold knows"),
        ("DATABASE_URL", "views.db", "no scheme that refold knows"),
        ("DATABASE_URL", "", "no scheme that refold knows"),
        ("DATABASE_URL", "sqlite://views.db", "names no file"),
        ("DATABASE_URL", "sqlite:///:memory:", "names no file"),
        ("DATABASE_URL", "sqlite:///nowhere/views.db", "nowhere"),
        ("DATABASE_URL", "sqlite:///.", "is a folder"),
        ("DATABASE_URL", "sqlite:///ledger.py", "no SQLite database"),
        ("DATABASE_URL", "postgresql://u:hush@[::1/x", "PostgreSQL URL cannot be read"),
        ("DATABASE_URL", "postgresql://u:hush@127.0.0.1:port/x", "port"),
        ("NATS_URL", "http://127.0.0.1:1", "scheme 'http' is not known"),
        ("NATS_URL", "nats://127.0.0.1:port", "malformed"),
        ("NATS_URL", "", "URL"),
        ("STARTUP_TIMEOUT", "soon", "startup_timeout"),
        ("NATS_ALLOW_PLAINTEXT", "perhaps", "nats_allow_plaintext"),
        ("NATS_CREDENTIALS_FILE", "nothing.creds", "nothing.creds"),
        ("SUBJECT_SCHEME", "rot13", "subject_scheme"),
        ("SUBJECT_PREFIX", "a..b", "subject prefix"),
        ("CODEC", "xml", "codec 'xml' is not known"),
        ("STREAM", "no.stream", "is no stream name"),
        ("STREAM", "nothing-of-the-kind", "does not exist"),
    ],
)
def test_settings_that_are_wrong(shell: Shell, setting: str, value: str, said: str) -> None:
    began = time.monotonic()
    changed = {"REFOLD_STARTUP_TIMEOUT": None, f"REFOLD_{setting}": value}
    done = shell("--app", "ledger:app", "rebuild", **changed)
    is_mistake(done, said)
    assert "hush" not in done.stderr
    assert time.monotonic() - began < 10  # waiting does not mend it


@pytest.mark.parametrize("content", [b"REFOLD_CODEC=xml\n", b"\xff\xfe\x00=\x81\n", b"REFOLD_STARTUP_TIMEOUT='soon'\n"])
@pytest.mark.parametrize("command", ["rebuild", "import"])
def test_a_dot_env_file_that_is_wrong(shell: Shell, tmp_path: Path, content: bytes, command: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    arguments = ["--app", "ledger:app", "rebuild"] if command == "rebuild" else ["import", "-", "--stream", "S"]
    done = shell(*arguments, REFOLD_STARTUP_TIMEOUT=None)
    if command == "import" and b"xml" in content:
        assert done.returncode in (0, 2)  # --codec comes before it
    else:
        is_mistake(done, ".env" if b"xml" not in content else "codec 'xml'")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["rebuild", "--nonsense"],
        ["--app", "ledger:app", "rebuild", "--on-error", "shrug"],
        ["import"],
        ["import", "x.jsonl"],
        ["bench"],
    ],
)
def test_arguments_that_are_none_show_how_it_is_meant(shell: Shell, arguments: list[str]) -> None:
    done = shell(*arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stderr + done.stdout


# -- rebuild -------------------------------------------------------------------------------------------------------------

RESULT = {
    "projection": "totals",
    "version": 1,
    "table": "totals__v1g1",
    "position": 3,
    "events": 3,
    "views": 1,
    "duplicates": 0,
    "ignored": 0,
    "failed": 1,
    "parked": 1,
    "published": False,
    "complete": False,
}


def test_the_json_of_a_rebuild(shell: Shell, stream_name: str) -> None:
    load(shell, stream_name, envelope(1, "ann"), envelope(2, "ann", 13), envelope(3, "ann"))
    done = shell("--app", "ledger:app", "rebuild", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (result,) = json.loads(done.stdout)
    assert result.pop("seconds") > 0
    failed, parked = result.pop("faults")
    assert result == RESULT
    assert (failed["projection"], failed["position"], failed["key"], failed["parked"]) == ("totals", 2, "ann", False)
    assert "ValueError: unlucky" in failed["reason"]
    assert (parked["position"], parked["parked"]) == (3, True)
    assert set(failed) == {"projection", "position", "subject", "key", "reason", "parked", "policy"}


def test_policies_and_exit_codes(shell: Shell, stream_name: str) -> None:
    rebuild = ("--app", "ledger:app", "rebuild", "--json")
    load(shell, stream_name, envelope(1, "ann"), envelope(2, "ann", 13), envelope(3, "ann"))
    for policy, counts in {"quarantine": (1, 1), "skip": (1, 0)}.items():
        done = shell(*rebuild, "totals", "--on-error", policy)
        (result,) = json.loads(done.stdout)
        assert (done.returncode, result["failed"], result["parked"], result["published"]) == (1, *counts, False)
    halted = shell(*rebuild, "--on-error", "halt")
    is_mistake(halted, "totals: position 2, key 'ann': handler 'added' raised ValueError: unlucky")
    accepted = shell(*rebuild, "--accept-incomplete", "--on-error", "skip")
    assert (accepted.returncode, json.loads(accepted.stdout)[0]["published"]) == (1, True)


def test_a_terminal_shows_progress_and_a_table(shell: Shell, stream_name: str) -> None:
    load(shell, stream_name, envelope(1, "ann"), envelope(2, "[bold]", 2))
    done = shell("--app", "ledger:app", "rebuild", "totals")
    assert done.returncode == 0
    assert "reading totals" in done.stderr
    assert "2 events" in done.stderr
    assert "readers see version 1 at position 2" in done.stdout


# -- import --------------------------------------------------------------------------------------------------------------


def imported(shell: Shell, *arguments: str, code: int, **options: Any) -> dict[str, Any]:
    done = shell("import", *arguments, "--json", **options)
    assert done.returncode == code, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_bad_lines_are_told_by_number_and_stop_nobody(shell: Shell, stream_name: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(
        lines(
            envelope(1, "ann"),
            "",
            "{nonsense",
            envelope(2, ""),
            "[" * 5_000 + "]" * 5_000,
            envelope(3, "ann", "x" * 1_100_000),
            envelope(4, "ann", timestamp="today"),
            envelope(5, "k" * 3_000),
            envelope(6, "ann", version=0),
        ).encode()
        + b"\xff\xfe\n"
        + json.dumps(envelope(7, "ann")).encode()  # and no line's end
    )
    told = imported(shell, str(file), "--stream", stream_name, code=1)
    assert (told["stored"], told["duplicates"], told["position"]) == (2, 0, 2)
    assert [bad["line"] for bad in told["bad"]] == [3, 4, 5, 6, 7, 8, 9, 10]
    assert all(bad["reason"] for bad in told["bad"])
    again = imported(shell, str(file), "--stream", stream_name, code=1)
    assert (again["stored"], again["duplicates"], len(again["bad"])) == (0, 2, 8)

    shown = shell("import", str(file), "--stream", stream_name)
    assert shown.returncode == 1
    assert "0 events stored, 2 were there already, 8 bad lines" in shown.stdout
    assert f"{file.name}:3: " in shown.stderr.replace("\n", "")


def test_many_bad_lines_do_not_stop_the_good_ones(shell: Shell, stream_name: str) -> None:
    """Not even those that only the server, or its limits, would refuse."""
    huge = "x" * 1_100_000
    many = [envelope(i, "ann", huge if i % 2 else i) for i in range(1, 241)]
    told = imported(shell, "-", "--stream", stream_name, code=1, stdin=lines(*many))
    assert (told["stored"], [bad["line"] for bad in told["bad"]]) == (120, list(range(1, 241, 2)))


def test_a_file_of_bad_lines_alone(shell: Shell, stream_name: str) -> None:
    told = imported(shell, "-", "--stream", stream_name, code=1, stdin="{\n[]\n")
    assert (told["stored"], [bad["line"] for bad in told["bad"]]) == (0, [1, 2])


def test_an_empty_file(shell: Shell, stream_name: str) -> None:
    assert imported(shell, "-", "--stream", stream_name, code=0) == {
        "stored": 0,
        "duplicates": 0,
        "position": 0,
        "bad": [],
    }


def test_lines_that_the_stream_does_not_store(shell: Shell, stream_name: str) -> None:
    """The stream is made for the aggregate types of the first file, and then stays as it is."""
    plain: dict[str, Any] = {"REFOLD_SUBJECT_PREFIX": ""}
    first, other = (lines(envelope(1, "ann", aggregate_type=f"{stream_name}{kind}")) for kind in ("-a", "-b"))
    assert imported(shell, "-", "--stream", stream_name, code=0, stdin=first, **plain)["stored"] == 1
    mixed = other + lines(envelope(2, "ann", aggregate_type=f"{stream_name}-a")) + other
    told = imported(shell, "-", "--stream", stream_name, code=1, stdin=mixed, **plain)
    assert (told["stored"], [bad["line"] for bad in told["bad"]]) == (1, [1, 3])
    assert f"does not store '{stream_name}-b.ann.added'" in told["bad"][0]["reason"]


def go(number: int, account: str, payload: Any) -> dict[str, Any]:
    encoded = base64.b64encode(json.dumps(payload).encode()).decode()
    return envelope(number, account, payload=encoded)


def cloud_event(number: int, account: str, payload: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "/account",
        "type": "added",
        "subject": account,
        "time": "2026-01-01T00:00:00Z",
        "aggregateversion": number,
        "data": payload,
    }


@pytest.mark.parametrize(("codec", "write"), [("go", go), ("cloudevents", cloud_event)])
def test_other_envelopes(shell: Shell, stream_name: str, codec: str, write: Callable[..., dict[str, Any]]) -> None:
    file = lines(write(1, "ann", {"amount": 2}), envelope(2, "ann"), write(3, "ann", {"amount": 5}))
    told = imported(shell, "-", "--stream", stream_name, "--codec", codec, code=1, stdin=file)
    assert (told["stored"], [bad["line"] for bad in told["bad"]]) == (2, [2])
    done = shell("--app", "ledger:app", "rebuild", "--json", REFOLD_CODEC=codec)
    (result,) = json.loads(done.stdout)
    assert (done.returncode, result["views"], result["complete"]) == (0, 1, True)


def test_binary_cloud_events_are_no_lines(shell: Shell) -> None:
    is_mistake(shell("import", "-", "--stream", "S", "--codec", "cloudevents-binary"), "headers")


@pytest.mark.parametrize("file", ["nothing.jsonl", "."])
def test_files_that_are_none(shell: Shell, file: str) -> None:
    is_mistake(shell("import", file, "--stream", "S"), "cannot be read")


def test_a_stream_name_that_is_none(shell: Shell) -> None:
    is_mistake(shell("import", "-", "--stream", "a b", stdin=lines(envelope(1, "ann"))), "is no stream name")
