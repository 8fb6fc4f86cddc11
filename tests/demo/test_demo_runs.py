"""Runs after runs: what is new is added, what changed in the past is noticed, and wrong views are found out."""

from __future__ import annotations

import os
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import psutil
import pytest
from demo_support import ANN, BOB, Entry, Repo, database_in, demo

import refold.demo.run
from refold.demo.git import Git
from refold.errors import ConfigurationError


def added(text: str) -> tuple[int, int]:
    """How many commits and events a run says that it added."""
    commits, events = re.findall("^([0-9,]+) new commits? made ([0-9,]+) new events?[.]$", text, re.MULTILINE)[0]
    return int(commits.replace(",", "")), int(events.replace(",", ""))


async def test_a_second_run_adds_nothing_and_prints_the_same(repo: Repo, home: Path) -> None:
    for number in range(30):
        repo.commit({f"d{number % 4}/f{number % 7}": b"%d\n" % number}, author=(ANN, BOB)[number % 2])
    first = await demo(repo.path, home)
    second = await demo(repo.path, home)
    assert (first.code, second.code) == (0, 0)
    assert (added(first.text), added(second.text)) == ((30, 60), (0, 0))
    assert second.tables() == first.tables()
    assert second.views() == first.views()
    assert "and 14 more" not in first.tables()
    assert "and 18 more" in first.tables()


async def test_a_further_run_adds_only_what_is_new(repo: Repo, home: Path, tmp_path: Path) -> None:
    base = repo.commit({"a": b"1\n", "gone": b"x\n"})
    await demo(repo.path, home)
    side = repo.commit({"a": b"1\n2\n"}, parents=[base], ref="refs/heads/side", author=BOB)
    main = repo.commit({"gone": None, "a": b"0\n1\n"})
    repo.commit({"a": b"0\n1\n2\n"}, parents=[main, side])
    repo.commit({"gone": b"again\n"})
    shown = await demo(repo.path, home)
    assert (shown.code, added(shown.text)) == (0, (4, 4 + 2 + 1 + 1)), shown.text
    assert "anew" not in shown.text
    assert shown.views() == (await demo(repo.path, tmp_path / "fresh")).views()


async def test_rewritten_history_is_noticed(repo: Repo, home: Path) -> None:
    first = repo.commit({"a": b"1\n"})
    repo.commit({"a": b"2\n", "secret": b"x\n"})
    await demo(repo.path, home)
    repo.commit({"a": b"2\n"}, parents=[first])  # amended, then pushed by force
    shown = await demo(repo.path, home)
    assert "Starting the stream anew: HEAD does not follow" in shown.text
    assert (shown.code, added(shown.text), shown.rows("files", "path")) == (0, (2, 4), ["a"]), shown.text
    assert "anew" not in (await demo(repo.path, home)).text
    repo.git("update-ref", "refs/heads/main", first)  # taken back
    shown = await demo(repo.path, home)
    assert ("anew" in shown.text, shown.code, shown.rows("authors", "commits")) == (True, 0, [1])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (".mailmap", f"{BOB} <ann@example.org>\n"),
        (".git/info/attributes", "*.bin -binary diff=x\n"),
        (".git/info/attributes", "* binary\n"),
        (".gitattributes", "* -diff\n"),
        ("../.gitconfig", "[mailmap]\n  file = ~/names\n"),
        ("../.config/git/attributes", "* binary\n"),
        ("../.gitconfig", "[core]\n  attributesFile = ~/attributes\n"),
        ("../.gitconfig", "[core]\n  bigFileThreshold = 1\n"),
    ],
)
async def test_settings_that_change_the_past_are_noticed(
    repo: Repo, home: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: str
) -> None:
    monkeypatch.setenv("HOME", str(repo.path.parent))
    (repo.path.parent / "names").write_text(f"{BOB} <ann@example.org>\n")
    (repo.path.parent / "attributes").write_text("* binary\n")
    repo.commit({"a": b"1\n", "b.bin": b"\0\n"})
    repo.commit({"a": b"2\n", ".gitattributes": b"x\n"}, author=BOB)
    repo.git("reset", "--hard", "--quiet")
    await demo(repo.path, home)
    target = repo.path / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    repo.commit({"a": b"3\n"})
    shown = await demo(repo.path, home)
    assert "git tells the past otherwise" in shown.text
    assert (shown.code, added(shown.text)[0]) == (0, 3), shown.text


async def test_a_stream_that_lacks_events_is_made_anew(repo: Repo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit({"a": b"1\n"})
    show = refold.demo.run._show

    async def damaging(app: Any, console: Any) -> None:
        await app.client.jetstream().delete_msg(app.stream, 2)
        await show(app, console)

    with monkeypatch.context() as patched:
        patched.setattr(refold.demo.run, "_show", damaging)
        assert (await demo(repo.path, home)).code == 0
    shown = await demo(repo.path, home)
    assert "Starting the stream anew: the last import was interrupted" in shown.text
    assert (shown.code, added(shown.text)) == (0, (1, 2))


# -- The twin: wrong views are found out -------------------------------------------------------------------------------

TAMPERING = {
    "a file's content": "UPDATE {files} SET blob = 'f00' WHERE path = 'a'",
    "a file's mode": "UPDATE {files} SET mode = '100755' WHERE path = 'a'",
    "a file's name": "UPDATE {files} SET path = 'z' WHERE path = 'a'",
    "a file lost": "DELETE FROM {files} WHERE path = 'd/b'",
    "a file twice": "INSERT INTO {files} SELECT 'other', created_at, updated_at, version, position, path, kind, mode, blob, "
    "changes, last_author, renamed_from FROM {files} WHERE path = 'a'",
    "a commit too many": "UPDATE {authors} SET commits = commits + 1 WHERE author LIKE 'Bob%'",
    "an author's name": "UPDATE {authors} SET author = 'Rob' WHERE author LIKE 'Bob%'",
    "an author lost": "DELETE FROM {authors} WHERE author LIKE 'Bob%'",
    "lines added": "UPDATE {authors} SET insertions = insertions - 1 WHERE author LIKE 'Bob%'",
    "lines removed": "UPDATE {authors} SET deletions = deletions + 1 WHERE author LIKE 'Ann%'",
    "a directory's files": "UPDATE {directories} SET files = files + 1 WHERE path = 'd'",
    "a directory lost": "DELETE FROM {directories} WHERE path = '.'",
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_a_view_that_was_tampered_with_is_found_out(
    repo: Repo, home: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    repo.commit({"a": b"1\n", "d/b": b"2\n"})
    repo.commit({"a": b"2\n", "d/b": b"2\n3\n"}, author=BOB)
    show = refold.demo.run._show

    async def tampering(app: Any, console: Any) -> None:
        await show(app, console)
        connection = sqlite3.connect(database_in(home))
        tables = dict(
            connection.execute("SELECT projection, table_name FROM refold_checkpoints WHERE state = 'active'")
        )
        assert connection.execute(TAMPERING[what].format(**tables)).rowcount == 1
        connection.commit()
        connection.close()

    with monkeypatch.context() as patched:
        patched.setattr(refold.demo.run, "_show", tampering)
        shown = await demo(repo.path, home)
    assert shown.code == 1
    assert "DIFFERENT" in shown.text
    again = await demo(repo.path, home)
    assert (again.code, "DIFFERENT" in again.text) == (0, False)


# -- Any history, in any pieces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_any_history_imported_in_pieces_is_as_one_imported_at_once(tmp_path: Path, home: Path, seed: int) -> None:
    chance = random.Random(seed)
    repo = Repo(tmp_path / "repo")
    tips = [repo.commit({"start": b"1\n"})]
    for number in range(60):
        main = repo.git("rev-parse", "main")
        if chance.random() < 0.4:
            tips.append(repo.commit(changes(chance), parents=[chance.choice(tips)], ref="refs/heads/side", author=BOB))
        elif chance.random() < 0.4:
            sides = list(dict.fromkeys(chance.sample(tips, min(len(tips), chance.randint(1, 3)))))
            repo.commit(changes(chance), parents=[main, *(side for side in sides if side != main)])
        else:
            tips.append(repo.commit(changes(chance), author=chance.choice([ANN, BOB])))
        if number % 20 == 10:
            assert (await demo(repo.path, home)).code == 0
    pieces, whole = await demo(repo.path, home), await demo(repo.path, tmp_path / "whole")
    assert (pieces.code, whole.code) == (0, 0), pieces.text
    assert "anew" not in pieces.text
    assert pieces.views() == whole.views()
    assert pieces.tables().replace("/demo/", "/whole/") == whole.tables()


def changes(chance: random.Random) -> dict[str | bytes, Entry]:
    """A few files created, changed, moved or removed, whether they are there or not; a file may become a directory."""
    names = ["a", "b", "d/a", "d/e/b", "f*/>.x", "-g/\n", "ö"]
    content = [b"".join(b"%d\n" % line for line in range(chance.randint(0, 9))), b"\0", b"same\n" * 30, None, None]
    return {name: chance.choice(content) for name in chance.sample(names, chance.randint(0, 3))}


# -- Where it cannot run -----------------------------------------------------------------------------------------------


async def test_two_demos_in_one_folder(repo: Repo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit({"a": b"1\n"})
    monkeypatch.setattr(refold.demo.run, "_LOCK_SECONDS", 0.1)
    async with refold.demo.run._held(home):
        with pytest.raises(ConfigurationError, match="another demo, or a nats-server that one left, uses"):
            await demo(repo.path, home)
    assert (await demo(repo.path, home)).code == 0


async def test_the_server_holds_the_lock_too(repo: Repo, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a run after a killed one waits until that one's server has ended."""
    repo.commit({"a": b"1\n"})
    holders = []

    async def looking(app: Any, console: Any) -> None:
        for child in psutil.Process().children():
            holders.extend(child.name() for file in child.open_files() if file.path == str(home / "lock"))

    monkeypatch.setattr(refold.demo.run, "_show", looking)
    assert (await demo(repo.path, home)).code == 0
    assert holders == ["nats-server"]


async def test_a_folder_that_is_there_is_used_as_it_is(repo: Repo, home: Path) -> None:
    repo.commit({"a": b"1\n"})
    os.mkdir(home)
    (home / ".gitignore").write_text("mine\n")
    assert (await demo(repo.path, home)).code == 0
    assert (home / ".gitignore").read_text() == "mine\n"


async def test_several_repositories_share_a_folder(tmp_path: Path, home: Path) -> None:
    one, two = Repo(tmp_path / "one" / "same name"), Repo(tmp_path / "two" / "same name")
    one.commit({"a": b"1\n"})
    two.commit({"b": b"1\n"})
    for repo in (one, two, one):
        assert (await demo(repo.path, home)).code == 0
    assert sorted(name[:10] for name in os.listdir(home) if name.endswith(".db")) == ["same_name_"] * 2


async def test_settings_of_ones_own_are_left_alone(
    repo: Repo, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a": b"1\n"})
    (tmp_path / ".env").write_text("REFOLD_CODEC=go\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFOLD_NATS_TLS_CA", "/nonexistent.pem")
    monkeypatch.setenv("REFOLD_NATS_TOKEN", "secret")
    monkeypatch.setenv("REFOLD_SUBJECT_SCHEME", "raw")
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert (await demo(repo.path, home)).code == 0
    assert (await demo(repo.path, Path("relative"))).code == 0
    assert database_in(tmp_path / "relative")


async def test_git_that_fails_says_why(repo: Repo) -> None:
    repo.commit({"a": b"1\n"})
    with pytest.raises(ConfigurationError, match="git log failed in .*: fatal: bad revision 'nonsense'"):
        list(Git(repo.path).tokens("log", "-z", "nonsense", "--"))
    tokens = Git(repo.path).tokens("log", "-z", "--format=%H%x00")
    assert next(tokens) == repo.git("rev-parse", "HEAD").encode()
    tokens.close()
