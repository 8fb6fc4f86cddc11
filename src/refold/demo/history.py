"""The history of a git repository as events, in an order that any fold of them ends at the tree of HEAD.

A history with merges has no one order in which its commits' changes make sense. So there are two kinds of facts. Every
commit that HEAD can reach is an event of its own aggregate, with the lines that it changed; merges change none, as in
``git log --numstat``. What happens to files is told along the main line alone, the first parents of HEAD: each of its
commits against the one before, merges included, so that the last state of each file is exactly that of HEAD's tree.

Everything follows from HEAD and the repository: ids, versions and order are the same in each run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from refold.demo.events import Committed, FileChanged, FileCreated, FileDeleted
from refold.demo.git import Git, GitFailed
from refold.demo.paths import key_of, path_text
from refold.errors import ConfigurationError
from refold.event import DomainEvent, event_type_of

__all__ = ["Repository"]

_DIFF: Final = (
    "--no-color",
    "--no-ext-diff",
    "--ignore-submodules=none",
    "--diff-algorithm=default",
    "--find-renames",
    "-l1000",
    "-O/dev/null",
)
_ORDER: Final = ("-z", "--reverse", "--topo-order")
_HEADER: Final = "--format=tformat:%x01%H%x00%P%x00%ct%x00%aN <%aE>%x00%s%x00"
_FIELDS: Final = 5

_FORMAT: Final = b"1"
"""Raise it when the same history becomes other events, so that streams of before are made anew."""

_WANTED: Final = r"^(diff\..*|core\.(attributesfile|bigfilethreshold))$"
"""Settings that decide how many lines a change has."""

_MAX_SUBJECT: Final = 500
"""Characters kept of a commit's first line: a message may be longer than an event may be."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds())


class _Change(NamedTuple):
    """One file of one commit, as ``git log --raw`` tells it."""

    status: str
    mode: str
    blob: str
    path: str
    target: str
    """The new path of a rename or copy; else the path."""


class _Lines(NamedTuple):
    added: int
    removed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """A git repository at one commit; commits that come later are not looked at. All methods block.

    Attributes:
        git: git in its folder.
        folder: the folder that holds its data, the ``.git`` of most.
        head: hash of the commit.
        bare: whether it has no work tree.
    """

    git: Git
    folder: Path
    head: str
    bare: bool

    @classmethod
    def open(cls, path: Path) -> Self:
        """The repository that a folder belongs to, at its HEAD of now.

        Raises:
            ConfigurationError: there is none, it has no commit yet, or git cannot read it.
        """
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(f"{path} cannot be read: {reason}; give another with --git PATH") from error
        if not is_folder:
            raise ConfigurationError(f"{path} is no folder; give that of a git repository with --git PATH")
        start = Git(path)
        try:
            folder = Path(start.line("rev-parse", "--absolute-git-dir"))
            bare = start.line("rev-parse", "--is-inside-work-tree") != "true"
            top = folder if bare else Path(start.line("rev-parse", "--show-toplevel"))
        except GitFailed as failure:
            raise ConfigurationError(
                f"{path} is no git repository that git can use; give another with --git PATH (git says: {failure.reason})"
            ) from failure
        git = Git(top)
        # No error and no output where HEAD names a branch that has no commit.
        head = git.read("rev-parse", "--verify", "--quiet", "HEAD^{commit}", nothing=1).decode().strip()
        if not head:
            raise ConfigurationError(
                f"the git repository {top} has no commits yet; commit something, or give another with --git PATH"
            )
        return cls(git, folder, head, bare)

    def continues(self, commit: str) -> bool:
        """Whether the main line of HEAD passes a commit, so that its history only has to be gone on with."""
        return commit in self.git.read("rev-list", "--first-parent", self.head).decode().split()

    def count(self, after: str | None = None) -> int:
        """How many commits there are, after one of the main line or in all."""
        return int(self.git.line("rev-list", "--count", *self._range(after)))

    def fingerprint(self, commit: str) -> str:
        """A digest of what the events up to a commit of this history depend on.

        It changes when the mailmap gives one of their authors another name, when attributes make text files of binary
        ones, when a shallow clone is deepened, or when another git may find other renames: then the events published
        are no longer what git says.
        """
        digest = hashlib.sha256(_FORMAT + self.git.read("version"))
        digest.update(self.git.read("config", "--get-regexp", _WANTED, nothing=1))
        digest.update(self._attributes())
        with closing(self.git.tokens("log", "-z", "--format=tformat:%H %P %aN <%aE>", commit)) as commits:
            for line in commits:
                digest.update(line + b"\0")
        return digest.hexdigest()

    def events(self, after: str | None = None) -> Generator[DomainEvent[Any], None, None]:
        """The events of the history, parents before children, numbered within their aggregates. Close it to stop early.

        Args:
            after: only those of commits that this one of the main line does not hold; their numbers go on from its.

        Raises:
            ConfigurationError: git cannot read the repository.
        """
        versions: Counter[str] = Counter()
        along = ("--first-parent", "-m", "--raw", "--no-abbrev")
        with (
            closing(self.git.tokens("log", *_ORDER, _HEADER, *_DIFF, *along, self.head)) as raw,
            closing(self.git.tokens("log", *_ORDER, _HEADER, *_DIFF, "--numstat", *self._range(after))) as numstat,
        ):
            main_line = _commits(raw, _change)
            if after is not None:
                _skip(main_line, after, versions)
            following = next(main_line, None)
            for commit, lines in _commits(numstat, _lines):
                yield commit.event(lines)
                # The main line is in the order of all commits, so its next one comes up in time.
                if following is not None and following[0].id == commit.id:
                    yield from commit.file_events(following[1], versions)
                    following = next(main_line, None)

    def _range(self, after: str | None) -> tuple[str, ...]:
        return (self.head,) if after is None else (self.head, f"^{after}")

    def _attributes(self) -> bytes:
        anywhere = ("--", ":(top,glob)**/.gitattributes")
        own = self.git.folder / self.git.line("rev-parse", "--git-path", "info/attributes")
        named = self.git.line("config", "--type=path", "--get", "core.attributesfile", nothing=1)
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
        outside = [own, Path(named) if named else settings / "git" / "attributes"]
        if self.bare:
            committed = self.git.read("log", "-1", "--format=%H", self.head, *anywhere)
            return committed + b"\0".join(map(_content, outside))
        names = self.git.read("ls-files", "-z", *anywhere)
        files = [self.git.folder / name.decode(errors="surrogateescape") for name in names.split(b"\0") if name]
        return names + b"\0".join(map(_content, [*outside, *files]))


@dataclasses.dataclass(frozen=True, slots=True)
class _Commit:
    """A commit's header, as text."""

    id: str
    parents: int
    time: datetime
    author: str
    subject: str

    @classmethod
    def of(cls, fields: list[bytes]) -> Self:
        id_, parents, time, author, subject = fields
        # Not every byte sequence in a commit is UTF-8, whatever its header says.
        text, title = (part.decode(errors="backslashreplace") for part in (author, subject))
        return cls(id_.decode(), len(parents.split()), _time(time), text, title[:_MAX_SUBJECT])

    def event(self, lines: list[_Lines]) -> DomainEvent[Committed]:
        """That it was made."""
        payload = Committed(
            author=self.author,
            subject=self.subject,
            parents=self.parents,
            files=len(lines),
            insertions=sum(line.added for line in lines),
            deletions=sum(line.removed for line in lines),
        )
        return self._event("commit", self.id, 1, payload, self.id)

    def file_events(self, changes: list[_Change], versions: Counter[str]) -> Iterator[DomainEvent[Any]]:
        """What it did to the files of the main line.

        Files come before others go, so that a directory lives on whose files are all replaced.
        """
        for path, payload in sorted(self._payloads(changes), key=lambda item: isinstance(item[1], FileDeleted)):
            key = key_of(path)
            versions[key] += 1
            id_ = f"{self.id}-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
            yield self._event("file", key, versions[key], payload, id_)

    def _payloads(self, changes: list[_Change]) -> Iterator[tuple[str, FileCreated | FileChanged | FileDeleted]]:
        for status, mode, blob, path, target in changes:
            if status == "D":
                yield path, FileDeleted(path, self.id, self.author)
            elif status in "AC":
                yield target, FileCreated(target, self.id, self.author, mode, blob)
            elif status == "R":
                yield path, FileDeleted(path, self.id, self.author, target)
                yield target, FileCreated(target, self.id, self.author, mode, blob, path)
            else:
                yield path, FileChanged(path, self.id, self.author, mode, blob)

    def _event(self, kind: str, key: str, version: int, payload: Any, id_: str) -> DomainEvent[Any]:
        return DomainEvent(
            id=id_,
            aggregate_id=key,
            type=event_type_of(type(payload)).name,
            aggregate_type=kind,
            timestamp=self.time,
            version=version,
            payload=payload,
        )


def _skip(main_line: Iterator[tuple[_Commit, list[_Change]]], after: str, versions: Counter[str]) -> None:
    """Passes the commits up to and including one, counting the events that they made."""
    for commit, changes in main_line:
        for change in changes:
            versions.update(key_of(path) for path in {change.path, change.target})
        if commit.id == after:
            return


def _commits(
    tokens: Iterator[bytes], item: Callable[[bytes, Iterator[bytes]], Any]
) -> Iterator[tuple[_Commit, list[Any]]]:
    """Commits and what ``git log -z`` tells of each one's files.

    A token is a header's first field (after a byte 1), an item (perhaps after a line end), or an empty end of a commit
    without items; further fields and paths, which may be anything, are taken together with what they belong to.
    """
    commit: _Commit | None = None
    items: list[Any] = []
    for token in tokens:
        if token.startswith(b"\x01"):
            if commit is not None:
                yield commit, items
            commit, items = _Commit.of([token[1:], *(next(tokens) for _ in range(_FIELDS - 1))]), []
        elif token:
            items.append(item(token.removeprefix(b"\n"), tokens))
    if commit is not None:
        yield commit, items


def _lines(token: bytes, tokens: Iterator[bytes]) -> _Lines:
    added, removed, path = token.split(b"\t", 2)
    if not path:  # a rename: both paths follow
        next(tokens)
        next(tokens)
    return _Lines(0, 0) if added == b"-" else _Lines(int(added), int(removed))


def _change(token: bytes, tokens: Iterator[bytes]) -> _Change:
    _, mode, _, blob, status = token.decode().split(" ")
    path = path_text(next(tokens))
    target = path_text(next(tokens)) if status[0] in "RC" else path
    return _Change(status[0], mode, blob, path, target)


def _time(seconds: bytes) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=min(max(int(seconds), 0), _LATEST))
    except ValueError:  # git leaves out what it cannot read
        return _EPOCH


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
