"""Three views of a repository: a row per file alive, per author, and per directory.

They show the three ways from events to views: `Files` has the aggregate's own id as key, `Authors` gathers many aggregates
(commits) in one view, and `Directories` spreads one event over several views.
"""

from __future__ import annotations

from typing import Annotated, Final

from refold.demo.events import Committed, FileChanged, FileCreated, FileDeleted
from refold.demo.paths import directories, key_of
from refold.engine.projector import Projector, on
from refold.engine.spec import DELETE, Delete
from refold.event import DomainEvent
from refold.view import Index, View

__all__ = ["AuthorView", "Authors", "Directories", "DirectoryView", "FileView", "Files"]

_KINDS: Final = {"120000": "symlink", "160000": "submodule", "100755": "executable"}


class FileView(View, gc=False):
    """A file that is alive at HEAD.

    Attributes:
        path: its path.
        kind: ``file``, ``executable``, ``symlink`` or ``submodule``.
        mode: git's mode, six octal digits.
        blob: hash of its content.
        changes: how often it changed on the main line since it came, its coming included.
        last_author: who changed it last.
        renamed_from: the path it had before.
    """

    path: str = ""
    kind: str = "file"
    mode: str = ""
    blob: str = ""
    changes: Annotated[int, Index()] = 0
    last_author: str = ""
    renamed_from: str | None = None


class Files(Projector[FileView], name="files", aggregate="file", version=1):
    """One row per file alive."""

    @on(FileCreated)
    def created(self, view: FileView, event: DomainEvent[FileCreated]) -> None:
        """A new row, also for a path that was there before and went."""
        view.path = event.payload.path
        view.renamed_from = event.payload.renamed_from
        self._set(view, event.payload)

    @on(FileChanged)
    def changed(self, view: FileView, event: DomainEvent[FileChanged]) -> None:
        """New content or mode."""
        self._set(view, event.payload)

    @on(FileDeleted, create=False)
    def deleted(self, view: FileView, event: DomainEvent[FileDeleted]) -> Delete:
        """No row any more."""
        return DELETE

    def _set(self, view: FileView, payload: FileCreated | FileChanged) -> None:
        view.kind = _KINDS.get(payload.mode, "file")
        view.mode = payload.mode
        view.blob = payload.blob
        view.changes += 1
        view.last_author = payload.author


class AuthorView(View, gc=False):
    """Someone whose commits lead to HEAD.

    Attributes:
        author: ``Name <mail>``, after the mailmap.
        commits: how many, merges included.
        merges: how many of them are merges.
        insertions: lines added by those that are no merges.
        deletions: lines removed by them.
    """

    author: str = ""
    commits: Annotated[int, Index()] = 0
    merges: int = 0
    insertions: int = 0
    deletions: int = 0


def _author_key(event: DomainEvent[Committed]) -> str:
    return key_of(event.payload.author)


class Authors(Projector[AuthorView], name="authors", aggregate="commit", version=1):
    """One row per author: many commits go into one view."""

    @on(Committed, key=_author_key)
    def committed(self, view: AuthorView, event: DomainEvent[Committed]) -> None:
        """Counts the commit and its lines."""
        payload = event.payload
        view.author = payload.author
        view.commits += 1
        view.merges += payload.parents > 1
        view.insertions += payload.insertions
        view.deletions += payload.deletions


class DirectoryView(View, gc=False):
    """A directory that holds files at HEAD.

    Attributes:
        path: its path; ``.`` for the top one.
        files: files alive in it and below.
        changes: files that came, changed or went in it and below, since it is there.
    """

    path: str = ""
    files: Annotated[int, Index()] = 0
    changes: int = 0


def _directory_keys(event: DomainEvent[FileCreated | FileChanged | FileDeleted]) -> list[str]:
    return [key_of(directory) for directory in directories(event.payload.path)]


class Directories(Projector[DirectoryView], name="directories", aggregate="file", version=1):
    """One row per directory: one event goes into all directories that the file lies in."""

    @on(FileCreated, keys=_directory_keys)
    def created(self, view: DirectoryView, event: DomainEvent[FileCreated]) -> None:
        """One file more."""
        if not view.path:
            view.path = next(d for d in directories(event.payload.path) if key_of(d) == view.id)
        view.files += 1
        view.changes += 1

    @on(FileChanged, keys=_directory_keys)
    def changed(self, view: DirectoryView, event: DomainEvent[FileChanged]) -> None:
        """One change more."""
        view.changes += 1

    @on(FileDeleted, keys=_directory_keys, create=False)
    def deleted(self, view: DirectoryView, event: DomainEvent[FileDeleted]) -> Delete | None:
        """One file less; git knows no empty directories, so the last one takes the row with it."""
        view.files -= 1
        view.changes += 1
        return DELETE if view.files == 0 else None
