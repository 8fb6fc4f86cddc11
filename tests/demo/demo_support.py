"""Git repositories made with git's own plumbing, and the demo run on them."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from refold.demo.run import run_demo

Entry = bytes | tuple[str, bytes] | None
"""A file's content; mode and content (of a submodule: its commit); or None, which removes it."""

ANN = "Ann <ann@example.org>"
BOB = "Bob <bob@example.org>"


class Repo:
    """A repository that is written without a work tree in between, so that any name and any history is possible."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self.clock = 1_600_000_000
        subprocess.run(["git", "init", "--quiet", "-b", "main", *options, str(path)], check=True)

    def git(self, *arguments: str | bytes, stdin: bytes = b"", **environment: str) -> str:
        """Runs git in the repository; gives what it writes, without the last line's end."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            input=stdin,
            env=os.environ | environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="surrogateescape").removesuffix("\n")

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)

    def commit(
        self,
        files: Mapping[str | bytes, Entry] = {},
        *,
        author: str = ANN,
        message: str = "change",
        parents: Sequence[str] | None = None,
        time: int | None = None,
        ref: str = "refs/heads/main",
    ) -> str:
        """Commits changes to the tree of the first parent (by default where the ref is), moves the ref; gives the hash."""
        if parents is None:
            parents = self.git("for-each-ref", "--format=%(objectname)", ref).split()
        self.git("read-tree", *([parents[0]] if parents else ["--empty"]))
        self.git("update-index", "-z", "--index-info", stdin=b"".join(self._lines(files)))
        name, _, mail = author.rpartition(" <")
        self.clock += 60
        who = {"NAME": name, "EMAIL": mail.removesuffix(">"), "DATE": f"{time or self.clock} +0000"}
        who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
        options = [option for parent in parents for option in ("-p", parent)]
        tree = self.git("write-tree")
        commit = self.git("commit-tree", tree, *options, stdin=message.encode(), **who)
        self.git("update-ref", ref, commit)
        return commit

    def grow(self, commits: int) -> None:
        """Adds many small commits to the main branch at once."""
        exists = bool(self.git("for-each-ref", "refs/heads/main"))
        lines = []
        for number in range(commits):
            self.clock += 60
            who = f"{(ANN, BOB)[number % 3 == 0]} {self.clock} +0000"
            lines.append(f"commit refs/heads/main\nauthor {who}\ncommitter {who}\ndata 2\nm\n")
            if number == 0 and exists:
                lines.append("from refs/heads/main^0\n")
            content = f"{number}\n" * (number % 5 + 1)
            lines.append(f"M 100644 inline d{number % 40}/f{number % 300}\ndata {len(content)}\n{content}\n")
        self.git("fast-import", "--quiet", stdin="".join(lines).encode())

    def _lines(self, files: Mapping[str | bytes, Entry]) -> list[bytes]:
        removed, added = [], []
        for path, entry in files.items():
            name = path.encode() if isinstance(path, str) else path
            if entry is None:
                removed.append(b"0 " + b"0" * 40 + b"\t" + name + b"\0")
                continue
            mode, content = entry if isinstance(entry, tuple) else ("100644", entry)
            hash_ = content.decode() if mode == "160000" else self.blob(content)
            added.append(f"{mode} {hash_}\t".encode() + name + b"\0")
        return removed + added


def database_in(home: Path) -> Path:
    """The one database in the demo's folder."""
    (found,) = home.glob("*.db")
    return found


class Shown(NamedTuple):
    """What a run of the demo came to."""

    code: int
    text: str
    home: Path

    def rows(self, table: str, columns: str = "*") -> list[Any]:
        """Rows of a view in the database, in order of their first column; one column's values where one is asked for."""
        with closing(sqlite3.connect(database_in(self.home))) as connection:
            rows = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    def views(self) -> dict[str, list[Any]]:
        """Everything in the three views that does not depend on where in the stream events stand."""
        return {
            "files": self.rows("files", "id, path, kind, mode, blob, changes, last_author, renamed_from, updated_at"),
            "authors": self.rows("authors", "id, author, commits, merges, insertions, deletions, updated_at"),
            "directories": self.rows("directories", "id, path, files, changes, updated_at"),
        }

    def tables(self) -> str:
        """What was printed from the tables on: the same in every run on the same history."""
        return self.text[self.text.index("Files that changed most") :]


async def demo(git: Path, home: Path, *, width: int = 200) -> Shown:
    """Runs the demo in this process."""
    output = io.StringIO()
    code = await run_demo(git, home, Console(file=output, width=width, highlight=False))
    return Shown(code, output.getvalue(), home)
