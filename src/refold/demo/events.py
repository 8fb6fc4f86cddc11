"""What happens in a repository, as events of three kinds of aggregates: commits, files, and imports of the history."""

from __future__ import annotations

import msgspec

from refold.event import event

__all__ = ["Committed", "FileChanged", "FileCreated", "FileDeleted", "ImportFinished", "ImportStarted"]


@event("committed")
class Committed(msgspec.Struct, gc=False, frozen=True):
    """A commit was made; the aggregate is the commit, its id the hash.

    Attributes:
        author: ``Name <mail>``, after the repository's mailmap.
        subject: first line of the message.
        parents: how many commits it follows: 0 for a first one, more than 1 for a merge.
        files: files it changed; 0 for a merge, as in ``git log --numstat``.
        insertions: lines added; 0 for a merge.
        deletions: lines removed; 0 for a merge.
    """

    author: str
    subject: str
    parents: int
    files: int
    insertions: int
    deletions: int


@event("file_created")
class FileCreated(msgspec.Struct, gc=False, frozen=True):
    """A file came to the main line (the first parents of HEAD); the aggregate is the path.

    Attributes:
        path: the path, see `refold.demo.paths.path_text`.
        commit: hash of the commit that brought it.
        author: that commit's author, after the mailmap.
        mode: git's mode, six octal digits.
        blob: hash of the content; for a submodule that of its commit.
        renamed_from: the path it had before, where git sees a rename.
    """

    path: str
    commit: str
    author: str
    mode: str
    blob: str
    renamed_from: str | None = None


@event("file_changed")
class FileChanged(msgspec.Struct, gc=False, frozen=True):
    """A file's content or mode changed on the main line; attributes as in `FileCreated`."""

    path: str
    commit: str
    author: str
    mode: str
    blob: str


@event("file_deleted")
class FileDeleted(msgspec.Struct, gc=False, frozen=True):
    """A file left the main line.

    Attributes:
        path: the path.
        commit: hash of the commit that removed it.
        author: that commit's author, after the mailmap.
        renamed_to: the path it has now, where git sees a rename.
    """

    path: str
    commit: str
    author: str
    renamed_to: str | None = None


@event("import_started")
class ImportStarted(msgspec.Struct, gc=False, frozen=True):
    """The history up to a commit is about to be published.

    Attributes:
        head: hash of that commit.
    """

    head: str


@event("import_finished")
class ImportFinished(msgspec.Struct, gc=False, frozen=True):
    """The history up to a commit is published.

    Attributes:
        head: hash of that commit.
        fingerprint: what git said of this history then, see `refold.demo.history.Repository.fingerprint`.
        events: how many events the stream has of it, those of imports not counted.
    """

    head: str
    fingerprint: str
    events: int
