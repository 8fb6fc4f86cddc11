"""Git as the judge: the demo's views against what git itself says, read and parsed apart from how they were made.

Nothing of the importer is used here: other git commands, other output (lines with git's quoting instead of NUL bytes), and
paths compared as bytes.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from refold.errors import ConfigurationError

__all__ = ["AuthorRow", "Check", "DirectoryRow", "FileRow", "verify"]

_SHOWN: Final = 5

# Variables of git's that are no leftovers of another command.
_SETTINGS: Final = ("GIT_CONFIG", "GIT_EXEC_PATH")


class FileRow(Protocol):
    """What is looked at in a row of the files."""

    path: str
    mode: str
    blob: str


class AuthorRow(Protocol):
    """What is looked at in a row of the authors."""

    author: str
    commits: int
    insertions: int
    deletions: int


class DirectoryRow(Protocol):
    """What is looked at in a row of the directories."""

    path: str
    files: int


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One comparison of a view with git.

    Attributes:
        name: what was compared.
        source: the git command that a person would type to see the same.
        git: what git says, summed up.
        views: what the views say, summed up.
        differences: the first of them, each as a line; none where all agree.
    """

    name: str
    source: str
    git: str
    views: str
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether git and the views agree in every row."""
        return not self.differences


def verify(
    folder: Path,
    head: str,
    *,
    files: Iterable[FileRow],
    authors: Iterable[AuthorRow],
    directories: Iterable[DirectoryRow],
) -> list[Check]:
    """Compares views with what git says of a commit, row by row. Blocks.

    Args:
        folder: the top of the repository's work tree, or a bare repository.
        head: the commit that the views are of.
        files: all rows of the files.
        authors: all rows of the authors.
        directories: all rows of the directories.

    Raises:
        ConfigurationError: git cannot be run or fails.
    """
    tree = dict(_tree(folder, head))
    authors = list(authors)
    return [
        _files_check(tree, files),
        _directories_check(tree, directories),
        _commits_check(_shortlog(folder, head), authors),
        _lines_check(_numstat(folder, head), authors),
    ]


# -- The checks --------------------------------------------------------------------------------------------------------


def _files_check(tree: dict[bytes, tuple[str, str]], rows: Iterable[FileRow]) -> Check:
    found, twice = _by_name((_path_bytes(row.path), (row.mode, row.blob)) for row in rows)
    return Check(
        "files at HEAD",
        "git ls-tree -r HEAD",
        _told(len(tree), "file"),
        _told(len(found), "file"),
        _differences(tree, found, twice),
    )


def _directories_check(tree: Iterable[bytes], rows: Iterable[DirectoryRow]) -> Check:
    counts = Counter(b"." for _ in tree)
    for path in tree:
        end = path.find(b"/")
        while end != -1:
            counts[path[:end]] += 1
            end = path.find(b"/", end + 1)
    found, twice = _by_name((_path_bytes(row.path), row.files) for row in rows)
    return Check(
        "files by directory",
        "git ls-tree -r HEAD",
        _told(len(counts), "directory", "directories"),
        _told(len(found), "directory", "directories"),
        _differences(counts, found, twice),
    )


def _commits_check(shortlog: Mapping[str, int], rows: list[AuthorRow]) -> Check:
    found, twice = _by_name((row.author, row.commits) for row in rows)
    return Check(
        "commits by author",
        "git shortlog -sne",
        _commits_told(shortlog),
        _commits_told(found),
        _differences(shortlog, found, twice),
    )


def _lines_check(numstat: Mapping[str, tuple[int, int]], rows: list[AuthorRow]) -> Check:
    found, twice = _by_name((row.author, (row.insertions, row.deletions)) for row in rows)
    return Check(
        "lines by author",
        "git log --numstat",
        _lines_told(numstat),
        _lines_told(found),
        _differences(numstat, found, twice),
    )


def _told(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _commits_told(commits: Mapping[Any, int]) -> str:
    return f"{_told(sum(commits.values()), 'commit')} by {_told(len(commits), 'author')}"


def _lines_told(lines: Mapping[Any, tuple[int, int]]) -> str:
    return f"+{sum(added for added, _ in lines.values()):,} -{sum(removed for _, removed in lines.values()):,}"


def _by_name(pairs: Iterable[tuple[Any, Any]]) -> tuple[dict[Any, Any], list[Any]]:
    """The pairs as a mapping, and the names that came twice, as the rows of no view should."""
    named: dict[Any, Any] = {}
    twice = []
    for name, value in pairs:
        if name in named:
            twice.append(name)
        named[name] = value
    return named, twice


def _differences(git: Mapping[Any, Any], views: Mapping[Any, Any], twice: list[Any]) -> tuple[str, ...]:
    lines = [f"{_name(name)}: two rows" for name in twice]
    lines += [
        f"{_name(name)}: git says {git.get(name, 'nothing')}, the view {views.get(name, 'has no row')}"
        for name in sorted(git.keys() | views.keys())
        if git.get(name) != views.get(name)
    ]
    more = len(lines) - _SHOWN
    return (*lines[:_SHOWN], f"… and {more:,} more") if more > 0 else tuple(lines)


def _name(name: str | bytes) -> str:
    return repr(name)


# -- What git says -----------------------------------------------------------------------------------------------------


def _tree(folder: Path, head: str) -> Iterator[tuple[bytes, tuple[str, str]]]:
    for line in _lines_of(folder, "ls-tree", "-r", "--full-tree", head):
        about, _, path = line.partition(b"\t")
        mode, _, blob = about.decode().split()
        yield _unquoted(path), (mode, blob)


def _shortlog(folder: Path, head: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in _lines_of(folder, "shortlog", "--summary", "--numbered", "--email", head):
        count, _, author = line.partition(b"\t")
        counts[author.decode(errors="backslashreplace")] = int(count)
    return counts


def _numstat(folder: Path, head: str) -> dict[str, tuple[int, int]]:
    added: Counter[bytes] = Counter()
    removed: Counter[bytes] = Counter()
    author = b""
    for line in _lines_of(
        folder,
        *("log", "--numstat", "--format=author %aN <%aE>", "--find-renames", "-l1000", "-O/dev/null"),
        *("--no-color", "--no-ext-diff", "--ignore-submodules=none", "--diff-algorithm=default", head),
    ):
        if line.startswith(b"author "):
            author = line.removeprefix(b"author ")
            added[author] += 0
        elif line and not line.startswith(b"-"):
            more, less, _ = line.split(b"\t", 2)
            added[author] += int(more)
            removed[author] += int(less)
    return {name.decode(errors="backslashreplace"): (added[name], removed[name]) for name in added}


def _lines_of(folder: Path, *arguments: str) -> Iterator[bytes]:
    """The lines that a git command writes, without their ends, paths quoted the way git does by default."""
    settings = ("core.quotePath=true", "log.showRoot=true", "log.showSignature=false", "diff.relative=false")
    options = [part for setting in (*settings, "i18n.logOutputEncoding=UTF-8") for part in ("-c", setting)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(_SETTINGS)
    }
    try:
        done = subprocess.run(  # noqa: S603 (the arguments are this module's own)
            ["git", "-C", str(folder), "--no-pager", *options, *arguments],  # noqa: S607 (the git that people use)
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            env={**environment, "LC_ALL": "C"},
        )
    except OSError as error:
        raise ConfigurationError(f"git cannot be run to check the views: {error}") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise ConfigurationError(
            f"git {arguments[0]} failed in {folder}, so the views are unchecked: {said}"
        ) from error
    yield from done.stdout.removesuffix(b"\n").split(b"\n") if done.stdout else ()


# -- Names -------------------------------------------------------------------------------------------------------------

_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{3})|(.))", re.DOTALL)
_MEANING: Final = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


def _unquoted(name: bytes) -> bytes:
    """The bytes of a path that git has put in double quotes where it saw need."""
    if not name.startswith(b'"'):
        return name
    return _ESCAPE.sub(lambda m: bytes([int(m[1], 8)]) if m[1] else _MEANING.get(m[2], m[2]), name[1:-1])


def _path_bytes(text: str) -> bytes:
    return _unquoted(text.encode())
