"""What the demo makes of histories of all kinds: it says that git agrees, and the rows are what one expects by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_support import ANN, BOB, Entry, Repo, demo

ODD_NAMES: list[bytes] = [
    b"plain",
    b"with space",
    b" leading and trailing ",
    b"a.b.c",
    b"...",
    b"star*and>greater",
    b"$JS.API.>",
    b"per%cent%2E",
    b"new\nline",
    b"tab\tand\rreturn",
    b"\x01\x02\x1b[31mred\x7f",
    b"-rf",
    b"--option=1",
    b'"quoted"',
    b'"sha256:' + b"0" * 64,
    b"back\\slash\\n",
    b":(top)colon",
    "häßlich/日本語/🦆".encode(),
    "e\u0301/combining".encode(),
    "\u202ereversed\u2028line".encode(),
    b"latin-\xe9\xff/caf\xe9",
    b"\xed\xa0\x80surrogate",
    b"#hash?query&and=equals",
    b"[markup]bold[/markup]",
    b"x" * 255 + b"/" + b"y" * 255 + b"/" + b"z" * 255,
    "ö".encode() * 900,
    b"\n" * 900,
    b"very/" * 400 + b"deep",
    b"d/d",
    b"D/d",
]


async def test_files_that_come_change_move_and_go(repo: Repo, home: Path) -> None:
    text = b"".join(b"line %d\n" % n for n in range(50))
    repo.commit({"a.txt": text, "b.txt": b"b\n", "dir/c.txt": b"c\n", "run": ("100755", b"#!\n")})
    repo.commit({"a.txt": text + b"more\n", "b.txt": None}, author=BOB)
    repo.commit({"a.txt": None, "dir/sub/a.txt": text + b"more\nand more\n"}, author=BOB)  # a rename with a change
    repo.commit({"b.txt": b"again\n", "dir/c.txt": None})
    repo.commit({"run": ("100644", b"#!\n"), "link": ("120000", b"b.txt")})
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert shown.rows("files", "path, kind, changes, last_author, renamed_from") == [
        ("b.txt", "file", 1, ANN, None),
        ("dir/sub/a.txt", "file", 1, BOB, "a.txt"),
        ("link", "symlink", 1, ANN, None),
        ("run", "file", 2, ANN, None),
    ]
    assert shown.rows("authors", "author, commits, merges, insertions, deletions") == [
        (ANN, 3, 0, 50 + 1 + 1 + 1 + 1 + 1, 1),
        (BOB, 2, 0, 2, 1),
    ]
    assert shown.rows("directories", "path, files, changes") == [(".", 4, 12), ("dir", 1, 3), ("dir/sub", 1, 1)]


async def test_a_directory_lives_on_when_all_its_files_are_replaced_at_once(repo: Repo, home: Path) -> None:
    repo.commit({"d/a": b"1\n", "d/b": b"2\n", "e/a": b"1\n"})
    repo.commit({"d/a": None, "d/b": None, "d/z": b"other\n", "e/a": None})
    repo.commit({"e/a": b"again\n"})
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert shown.rows("directories", "path, files, changes") == [(".", 2, 8), ("d", 1, 5), ("e", 1, 1)]


@pytest.mark.parametrize("rounds", [1, 2])
async def test_odd_names_come_and_go(repo: Repo, home: Path, rounds: int) -> None:
    repo.commit(dict.fromkeys(ODD_NAMES, b"1\n"))
    for _ in range(rounds - 1):
        repo.commit(dict.fromkeys(ODD_NAMES, b"2\n2\n"), author=BOB)
        repo.commit(dict.fromkeys(ODD_NAMES[::2]))
        repo.commit(dict.fromkeys(ODD_NAMES[::2], b"3\n"), author=BOB)
    shown = await demo(repo.path, home, width=80)
    assert shown.code == 0, shown.text
    assert len(shown.rows("files", "path")) == len(ODD_NAMES)
    assert f"same  files at HEAD       {len(ODD_NAMES)} files" in shown.text
    paths = set(shown.rows("files", "path"))
    assert {"with space", "häßlich/日本語/🦆", '"new\\nline"', '"latin-\\351\\377/caf\\351"', "-rf"} <= paths
    strange = [c for line in shown.text.splitlines() for c in line if not c.isprintable()]
    assert strange == []


async def test_merges(repo: Repo, home: Path) -> None:
    """Ordinary, evil, octopus, ours, and a merge whose side branch deletes and renames."""
    base = repo.commit(dict.fromkeys(("a", "b", "c", "d/e"), b"1\n2\n3\n"))
    side = repo.commit(
        {"a": b"1\n2\n3\nside\n", "b": None, "new": b"n\n"}, author=BOB, parents=[base], ref="refs/heads/s"
    )
    main = repo.commit({"c": b"main\n2\n3\n"})
    merged = {"a": b"1\n2\n3\nside\n", "b": None, "new": b"n\n"}
    merge = repo.commit({**merged, "evil": b"only in the merge\n", "c": b"evil\n"}, parents=[main, side])
    others = [repo.commit({f"o{n}": b"%d\n" % n}, author=BOB, parents=[side], ref=f"refs/heads/o{n}") for n in range(3)]
    octopus = repo.commit({f"o{n}": b"%d\n" % n for n in range(3)}, parents=[merge, *others])
    ours = repo.commit({"lost": b"x\n"}, author=BOB, parents=[base], ref="refs/heads/l")
    repo.commit({}, parents=[octopus, ours])
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert shown.rows("files", "path") == ["a", "c", "d/e", "evil", "new", "o0", "o1", "o2"]
    assert shown.rows("authors", "author, commits, merges, insertions, deletions") == [
        (ANN, 5, 3, 12 + 1, 1),
        (BOB, 5, 0, 2 + 3 + 1, 3),
    ]


async def test_two_histories_joined_and_a_foxtrot_merge(repo: Repo, home: Path) -> None:
    first = repo.commit({"a": b"1\n"})
    other = repo.commit({"sub/b": b"2\n"}, parents=[], ref="refs/heads/other", author=BOB)
    joined = repo.commit({"sub/b": b"2\n"}, parents=[first, other])
    assert (await demo(repo.path, home)).rows("files", "path") == ["a", "sub/b"]
    topic = repo.commit({"t": b"t\n"}, parents=[first], ref="refs/heads/topic")
    repo.commit({"sub/b": b"2\n"}, parents=[topic, joined])  # the former main line comes in as the second parent
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert "anew: HEAD does not follow" in shown.text
    assert shown.rows("files", "path, changes") == [("a", 1), ("sub/b", 1), ("t", 1)]
    assert shown.rows("authors", "author, commits, merges") == [(ANN, 4, 2), (BOB, 1, 0)]


async def test_kinds_of_entries_replace_each_other(repo: Repo, home: Path) -> None:
    """Files, executables, symlinks, submodules and directories, each in the place of each."""
    commit = repo.commit({"x": b"text\n", "y/z": b"text\n"}).encode()
    entries: list[dict[str | bytes, Entry]] = [
        {"x": ("100755", b"text\n")},
        {"x": ("120000", b"y")},
        {"x": ("160000", commit)},
        {"x": ("160000", commit[::-1])},
        {"x": None, "x/inside": b"in\n", "y/z": None, "y": ("160000", commit)},
        {"x/inside": None, "x": b"\0binary\0", "y": None, "y/z/deep": b"d\n"},
        {"x": b"\0other binary\0\n\n", "module": ("160000", commit)},
    ]
    for number, changes in enumerate(entries):
        repo.commit(changes)
        shown = await demo(repo.path, home)
        assert shown.code == 0, (number, shown.text)
    assert shown.rows("files", "path, kind") == [("module", "submodule"), ("x", "file"), ("y/z/deep", "file")]
    assert "module (submodule)" in shown.text


async def test_the_mailmap_joins_authors(repo: Repo, home: Path) -> None:
    repo.commit({"a": b"1\n"}, author="ann <old@example.org>")
    repo.commit({"a": b"2\n"}, author="A <other@example.org>")
    repo.commit({"a": b"2\n", ".mailmap": b"ignored in a work tree\n"}, author=ANN)
    (repo.path / ".mailmap").write_text(f"{ANN} <old@example.org>\n{ANN} A <other@example.org>\n")
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert shown.rows("authors", "author, commits, insertions, deletions") == [(ANN, 3, 3, 1)]
    assert shown.rows("files", "last_author") == [ANN, ANN]


async def test_authors_of_all_kinds(repo: Repo, home: Path) -> None:
    odd = [
        "[bold]Ann[/bold] <a.*>@x>",
        "日本 <日@本>",
        "N" * 700 + " <" + "m" * 3000 + "@x>",
        '"sha256 <x>',
        "a\\b <c>",
    ]
    for number, author in enumerate(odd):
        repo.commit({"a": b"%d\n" % number}, author=author)
    tree = repo.git("write-tree")
    parent = repo.git("rev-parse", "main")
    at = b"1600009999 +0000\n"
    strange = [
        b"author Andr\xe9 <a@x> " + at + b"committer x <x> " + at + b"encoding ISO-8859-1\n\n\xe9t\xe9\n",
        b"author Andr\xe9 <a@x> " + at + b"committer x <x> " + at + b"\n\xe9\n",
        b"author  <a@x> " + at + b"committer  <> 99999999999999 +9999\n\n\n",
        b"author x <> 0 +0000\ncommitter x <> 0 +0000\n\n" + b"long " * 500_000,
        b"author no time <t>\ncommitter no time <t>\n\nx",
    ]
    for header in strange:
        raw = f"tree {tree}\nparent {parent}\n".encode() + header
        parent = repo.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=raw)
    repo.git("update-ref", "refs/heads/main", parent)
    shown = await demo(repo.path, home)
    assert shown.code == 0, shown.text
    assert sum(shown.rows("authors", "commits")) == len(odd) + len(strange)
    assert {"André <a@x>", "Andr\\xe9 <a@x>", " <a@x>"} <= set(shown.rows("authors", "author"))


async def test_histories_without_files(repo: Repo, home: Path) -> None:
    repo.commit(message="nothing")
    shown = await demo(repo.path, home)
    assert (shown.code, shown.rows("files"), shown.rows("directories")) == (0, [], []), shown.text
    repo.commit({"a": b"1\n"})
    assert (await demo(repo.path, home)).rows("files", "path") == ["a"]
    repo.commit({"a": None})
    shown = await demo(repo.path, home)
    assert (shown.code, shown.rows("files"), shown.rows("directories")) == (0, [], []), shown.text
    assert shown.rows("authors", "commits, insertions, deletions") == [(3, 1, 1)]


async def test_places_where_a_repository_can_be(repo: Repo, tmp_path: Path) -> None:
    """A subfolder, a bare clone, a linked work tree, a detached HEAD, a replaced commit."""
    first = repo.commit({"a": b"1\n", "dir/b": b"2\n"})
    second = repo.commit({"a": b"2\n"}, author=BOB)
    repo.git("reset", "--hard", "--quiet")
    plain = await demo(repo.path, tmp_path / "plain")
    places = {"sub": repo.path / "dir", "inside": repo.path / ".git" / "refs"}
    repo.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare.git"))
    places["bare"] = tmp_path / "bare.git"
    repo.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), second)
    places["linked"] = tmp_path / "linked"
    for name, place in places.items():
        shown = await demo(place, tmp_path / name)
        assert (shown.code, shown.views()) == (0, plain.views()), shown.text
    tree = repo.git("rev-parse", "HEAD^{tree}")
    repo.git("replace", second, repo.commit({"other": b"x\n"}, parents=[first], ref="refs/heads/other"))
    assert repo.git("rev-parse", "HEAD^{tree}") != tree
    shown = await demo(repo.path, tmp_path / "replaced")
    assert (shown.code, shown.rows("files", "path")) == (0, ["a", "dir/b", "other"]), shown.text


async def test_sha256_repositories(tmp_path: Path, home: Path) -> None:
    repo = Repo(tmp_path / "new", "--object-format=sha256")
    repo.commit({"a": b"1\n"})
    repo.commit({"b": b"1\n"})
    shown = await demo(repo.path, home)
    assert (shown.code, {len(blob) for blob in shown.rows("files", "blob")}) == (0, {64}), shown.text


async def test_shallow_clones(repo: Repo, tmp_path: Path, home: Path) -> None:
    first = repo.commit({"a": b"1\n", "b": b"1\n"})
    side = repo.commit({"s": b"1\n"}, parents=[first], ref="refs/heads/side")
    second = repo.commit({"a": b"2\n"})
    repo.commit({"s": b"1\n"}, parents=[second, side])
    repo.commit({"c": b"1\n"}, author=BOB)
    clone = tmp_path / "clone"
    repo.git("clone", "--quiet", "--depth=2", f"file://{repo.path}", str(clone))
    shown = await demo(clone, home)
    assert (shown.code, shown.rows("authors", "author, commits")) == (0, [(ANN, 1), (BOB, 1)]), shown.text
    assert shown.rows("files", "path") == ["a", "b", "c", "s"]
    repo.git("-C", str(clone), "fetch", "--quiet", "--unshallow")
    shown = await demo(clone, home)
    assert "anew: git tells the past otherwise" in shown.text
    assert (shown.code, shown.rows("authors", "author, commits")) == (0, [(ANN, 4), (BOB, 1)]), shown.text


HOSTILE = """
[color]
    ui = always
[core]
    quotePath = false
    pager = false
[diff]
    renames = copies
    noprefix = true
    relative = true
    algorithm = patience
    external = false
    orderFile = /nonexistent
    ignoreSubmodules = all
    submodule = diff
    renameLimit = 1
[format]
    pretty = oneline
[i18n]
    logOutputEncoding = ISO-8859-1
[log]
    showSignature = true
    showRoot = false
    diffMerges = combined
    follow = true
    decorate = full
    abbrevCommit = true
    mailmap = false
    date = raw
[status]
    relativePaths = false
"""


async def test_configuration_that_changes_what_git_writes(repo: Repo, home: Path, plain_git: Path) -> None:
    text = b"".join(b"line %d\n" % n for n in range(50))
    first = repo.commit({"ä/a": text, "ä/x": text[::-1], "m": ("160000", b"1" * 40)}, author="Jürgen <j@x>")
    side = repo.commit({"side": b"1\n"}, parents=[first], ref="refs/heads/side")
    moved: dict[str | bytes, Entry] = {"ä/a": None, "ä/x": None, "ä/b": text + b"1\n", "ä/c": text[::-1] + b"1\n"}
    second = repo.commit({**moved, "m": ("160000", b"2" * 40)})
    second = repo.commit({"copy": text + b"1\n", "ä/b": text + b"1\n2\n"})
    repo.commit({"side": b"1\n", "evil": b"1\n"}, parents=[second, side])
    expected = await demo(repo.path, home)
    (plain_git / ".gitconfig").write_text(HOSTILE)
    shown = await demo(repo.path, home.with_name("other"))
    assert (expected.code, shown.code) == (0, 0), shown.text
    assert shown.views() == expected.views()
    assert shown.tables().replace("other", "demo") == expected.tables()
