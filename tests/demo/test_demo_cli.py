"""``refold demo`` as a person runs it: another process, with real signals."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_support import Repo, Shown, demo

ROOT = Path(__file__).parents[2]
REFOLD = [sys.executable, "-c", "from refold.cli import main; main()"]

SLOW_GIT = """#!{python} -IS
import os, subprocess, sys, time
if "--numstat" not in sys.argv:
    os.execv({git!r}, ["git", *sys.argv[1:]])
process = subprocess.Popen([{git!r}, *sys.argv[1:]], stdout=subprocess.PIPE)
while chunk := process.stdout.read(2048):
    os.write(1, chunk)
    time.sleep(0.05)
sys.exit(process.wait())
"""


def refold_demo(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*REFOLD, "demo", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def slow_demo(repo: Repo, home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a demo whose git is slow, and gives it when some of the history is in the stream, and not all."""
    program = tmp_path / "slow" / "git"
    program.parent.mkdir()
    program.write_text(SLOW_GIT.format(python=sys.executable, git=shutil.which("git")))
    program.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        # What runs in the background has SIGINT ignored, and its children too.
        listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        process = subprocess.Popen(
            [*REFOLD[:2], f"{listening}; {REFOLD[2]}", "demo", "--git", str(repo.path), "--home", str(home)],
            env=os.environ | {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        deadline = time.monotonic() + 30
        before = stored(home)
        while stored(home) < before + 20_000:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stored(home: Path) -> int:
    """How many bytes of messages are in the streams."""
    return sum(file.stat().st_size for file in home.glob("nats/jetstream/$G/streams/*/msgs/*.blk"))


def nobody_holds(home: Path) -> bool:
    """Whether the demo's lock is free, which its server holds until it has ended."""
    with (home / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_it_ends_with_0_and_says_where_the_database_lies(repo: Repo) -> None:
    repo.grow(2000)
    repo.git("reset", "--hard", "--quiet")
    where = repo.path / "d1"
    began = time.monotonic()
    done = refold_demo(cwd=where, COLUMNS="80")
    assert time.monotonic() - began < 30  # some 2 s where nothing else runs
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "2,000 new commits" in done.stdout
    assert "100%" in done.stdout
    (database,) = (where / ".demo").glob("*.db")
    assert f"The views are in {database}, as tables files, authors, directories." in done.stdout
    assert max(map(len, done.stdout.splitlines()[1:-1])) <= 80
    assert repo.git("status", "--porcelain") == ""
    assert nobody_holds(where / ".demo")
    again = refold_demo(cwd=where, COLUMNS="80", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (again.returncode, again.stderr) == (0, "")
    assert "0 new commits" in again.stdout


def test_make_demo(repo: Repo, tmp_path: Path) -> None:
    repo.commit({"a": b"1\n"})
    place = repo.path.rename(tmp_path / "a place $HOME 'of' its own")
    command = [
        "make",
        "-o",
        ".venv/.runnable",
        "demo",
        f"BIN={Path(sys.executable).parent}",
        f"ARGS=--home {tmp_path / 'demo'}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | {"GIT": str(place)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, str(place) in done.stdout) == (0, True), done.stderr


def mistakes(tmp_path: Path) -> dict[str, tuple[list[str], dict[str, str], str]]:
    """Arguments and environment, and what is then said."""
    plain, file = tmp_path / "plain", tmp_path / "file"
    plain.mkdir()
    file.touch()
    empty, good = Repo(tmp_path / "empty").path, Repo(tmp_path / "good")
    good.commit({"a": b"1\n"})
    broken = Repo(tmp_path / "broken")
    (broken.path / ".git" / "objects").rename(tmp_path / "gone")
    alone = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    return {
        "no folder": (["--git", "nothing"], {}, "nothing cannot be read: No such file or directory"),
        "a file": (["--git", str(file)], {}, "is no folder"),
        "no repository": (["--git", str(plain)], alone, "is no git repository that git can use"),
        "no repository here": ([], alone, "is no git repository that git can use"),
        "a broken one": (["--git", str(broken.path)], alone, "is no git repository that git can use"),
        "no commits": (["--git", str(empty)], {}, "has no commits yet"),
        "no git": (["--git", str(good.path)], {"PATH": str(plain)}, "there is no git program"),
        "no place": (["--git", str(good.path), "--home", str(file)], {}, "cannot be the demo's folder: File exists"),
    }


@pytest.mark.parametrize(
    "what",
    ["no folder", "a file", "no repository", "no repository here", "a broken one", "no commits", "no git", "no place"],
)
def test_mistakes_end_with_2_and_one_line(tmp_path: Path, what: str) -> None:
    arguments, environment, said = mistakes(tmp_path)[what]
    done = refold_demo(*arguments, cwd=tmp_path / "plain", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("refold: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "plain").iterdir()) == []


def test_without_the_server_it_says_what_to_install(repo: Repo, tmp_path: Path) -> None:
    repo.commit({"a": b"1\n"})
    (tmp_path / "git").symlink_to(str(shutil.which("git")))
    lost = "import sys, sysconfig; sysconfig.get_path = lambda _: '/nowhere'; sys.executable = '/nowhere/python'\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{lost}{REFOLD[-1]}", "demo"],
        cwd=repo.path,
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'refold[embedded]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_a_killed_import_is_mended_by_the_next_run(
    repo: Repo, home: Path, tmp_path: Path, slow_demo: Start
) -> None:
    repo.grow(1500)
    process = slow_demo()
    process.kill()
    process.communicate()
    shown: Shown = await demo(repo.path, home)  # at once: the killed one's server may be alive
    assert "Starting the stream anew: the last import was interrupted" in shown.text
    assert (shown.code, "1,500 new commits" in shown.text) == (0, True), shown.text
    assert shown.views() == (await demo(repo.path, tmp_path / "fresh")).views()


async def test_a_killed_further_import_is_mended_too(repo: Repo, home: Path, tmp_path: Path, slow_demo: Start) -> None:
    repo.grow(100)
    await demo(repo.path, home)
    repo.grow(1500)
    process = slow_demo()
    process.kill()
    process.communicate()
    shown: Any = await demo(repo.path, home)
    assert "the last import was interrupted" in shown.text
    assert shown.code == 0, shown.text
    assert shown.views() == (await demo(repo.path, tmp_path / "fresh")).views()


def test_ctrl_c_stops_everything_and_says_so(repo: Repo, home: Path, slow_demo: Start) -> None:
    repo.grow(1500)
    process = slow_demo()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said.splitlines()) == (130, ["refold: interrupted; run it again"])
    assert nobody_holds(home)
