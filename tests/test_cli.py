"""The command line, as a person uses it: another process, a real server, a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refold.embedded import EmbeddedNats

APP = """
import os
import msgspec
from refold import App, DomainEvent, Projector, View, event, on

@event("added")
class Added(msgspec.Struct, gc=False):
    amount: int

class Total(View):
    total: int = 0

class Totals(Projector[Total], name="totals", aggregate=os.environ["STREAM"], version=1):
    @on(Added)
    def added(self, view: Total, event: DomainEvent[Added]) -> None:
        view.total += event.payload.amount

app = App("cli", stream=os.environ["STREAM"])
app.register(Totals)
"""


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def shell(request: pytest.FixtureRequest, nats: EmbeddedNats, stream_name: str, tmp_path: Path) -> Any:
    """Runs ``refold`` in a folder that has an app."""
    (tmp_path / "ledger.py").write_text(APP)
    settings = {
        "REFOLD_NATS_URL": nats.url,
        "REFOLD_DATABASE_URL": request.getfixturevalue(request.param),
        "STREAM": stream_name,
    }

    def run(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from refold.cli import main; main()", *arguments],
            cwd=tmp_path,
            env=os.environ | settings | more,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def line(stream: str, number: int, aggregate: str, amount: Any = 1, **changes: Any) -> str:
    """An envelope; the stream's name is the aggregate type too, for streams of a server may not share subjects."""
    envelope = {
        "id": f"e{number}",
        "aggregate_id": aggregate,
        "event_type": "added",
        "aggregate_type": stream,
        "timestamp": "2026-01-01T00:00:00Z",
        "version": number,
        "payload": {"amount": amount},
    }
    return json.dumps({k: v for k, v in (envelope | changes).items() if v is not None})


def test_import_then_rebuild(shell: Any, stream_name: str) -> None:
    good = [line(stream_name, 1, "a"), line(stream_name, 2, "a b.*", 5), line(stream_name, 4, "a", 10)]
    lines = [good[0], "{nonsense", good[1], line(stream_name, 3, "c", version=None), good[2]]
    imported = shell("import", "-", "--stream", stream_name, "--json", stdin="\n".join(lines) + "\n")
    told = json.loads(imported.stdout)
    assert (imported.returncode, told["stored"], [bad["line"] for bad in told["bad"]]) == (1, 3, [2, 4])
    again = json.loads(shell("import", "-", "--stream", stream_name, "--json", stdin="\n".join(lines)).stdout)
    assert (again["stored"], again["duplicates"]) == (0, 3)

    rebuilt = shell("--app", "ledger:app", "rebuild", "--json")
    assert rebuilt.returncode == 0, rebuilt.stderr
    (result,) = json.loads(rebuilt.stdout)
    assert (result["views"], result["events"], result["complete"], result["published"]) == (2, 3, True, True)
    shown = shell("--app", "ledger:app", "rebuild", "totals")
    assert "totals" in shown.stdout
    assert "reading" in shown.stderr


def test_an_incomplete_rebuild_says_where_and_exits_with_1(shell: Any, stream_name: str) -> None:
    shell(
        "import", "-", "--stream", stream_name, stdin=f"{line(stream_name, 1, 'a')}\n{line(stream_name, 2, 'a', 'x')}\n"
    )
    rebuilt = shell("--app", "ledger:app", "rebuild")
    assert rebuilt.returncode == 1
    assert "position 2" in rebuilt.stdout
    assert "readers go on seeing the old views" in rebuilt.stdout
    assert shell("--app", "ledger:app", "rebuild", "--on-error", "halt").returncode in (1, 2)
    assert shell("--app", "ledger:app", "rebuild", "--accept-incomplete").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rebuild"], "say which app"),
        (["--app", "nothing:app", "rebuild"], "cannot be imported"),
        (["--app", "ledger:other", "rebuild"], "has no attribute"),
        (["--app", "ledger:app", "rebuild", "nonsense"], "there are: totals"),
        (["--app", "ledger:app", "rebuild"], "does not exist"),
        (["import", "nothing.jsonl", "--stream", "S"], "cannot be read"),
        (["import", "-", "--stream", "S", "--codec", "xml"], "codec 'xml' is not known"),
    ],
)
def test_mistakes_end_with_2_and_one_line(shell: Any, arguments: list[str], said: str) -> None:
    done = shell(*arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_servers_that_are_away(shell: Any) -> None:
    for away in (
        {"REFOLD_NATS_URL": "nats://127.0.0.1:1"},
        {"REFOLD_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"},
    ):
        done = shell("--app", "ledger:app", "rebuild", REFOLD_STARTUP_TIMEOUT="0.5", **away)
        assert done.returncode == 2
        *waiting, error = filter(None, done.stderr.splitlines())
        assert waiting
        assert all("trying again" in line and "127.0.0.1" in line for line in waiting), waiting
        assert error.startswith("refold: no connection to ")
        assert "127.0.0.1" in error
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr
