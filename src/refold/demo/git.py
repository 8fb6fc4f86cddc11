"""Running git so that neither the caller's environment nor a person's configuration changes what it writes."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Final

from refold.errors import ConfigurationError

__all__ = ["Git", "GitFailed"]

_CHUNK: Final = 1 << 20

# Where to find configuration and programs; whatever else GIT_… variables say is about another repository or command.
_KEPT: Final = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")

# Configuration stays readable: it may name a mailmap, or declare the folder safe. What would change the output is
# overridden here and by the options of each command.
_SETTINGS: Final = (
    "--no-pager",
    *("-c", "core.fsmonitor=false"),
    *("-c", "diff.relative=false"),
    *("-c", "i18n.logOutputEncoding=UTF-8"),
    *("-c", "log.diffMerges=first-parent"),
    *("-c", "log.showRoot=true"),
    *("-c", "log.showSignature=false"),
)


class GitFailed(ConfigurationError):
    """A git command failed.

    Args:
        what: which one, and where.
        reason: what git says, in one line.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what}: {reason}")
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Git:
    """The git program in one folder.

    Attributes:
        folder: where it runs: the top of a work tree, or a bare repository.
    """

    folder: Path

    def read(self, *arguments: str, nothing: int | None = None) -> bytes:
        """What a command writes.

        Args:
            arguments: of git.
            nothing: the exit code by which the command says that there is nothing.

        Raises:
            GitFailed: the command fails.
            ConfigurationError: git cannot be run.
        """
        with self._start(arguments, subprocess.PIPE) as process:
            try:
                output, said = process.communicate()
            except BaseException:
                process.kill()
                raise
        if process.returncode not in (0, nothing):
            raise self._failure(arguments, said)
        return output

    def line(self, *arguments: str, nothing: int | None = None) -> str:
        """The one line that a command writes, as a path or text, without its end; see `read`.

        Raises:
            GitFailed, ConfigurationError: as in `read`.
        """
        return os.fsdecode(self.read(*arguments, nothing=nothing).removesuffix(b"\n"))

    def tokens(self, *arguments: str) -> Generator[bytes, None, None]:
        """What a command writes, cut at NUL bytes, as it comes. Close the iterator (``closing``) to stop early.

        Raises:
            GitFailed: the command fails.
            ConfigurationError: git cannot be run.
        """
        # Not a pipe: nobody reads what git complains of until it has ended.
        with tempfile.TemporaryFile() as complaints, self._start(arguments, complaints) as process:
            try:
                yield from _cut(process.stdout)
            except BaseException:
                process.kill()
                raise
            if process.wait() != 0:
                complaints.seek(0)
                raise self._failure(arguments, complaints.read())

    def _start(self, arguments: tuple[str, ...], complaints: int | IO[bytes]) -> subprocess.Popen[bytes]:
        program = shutil.which("git")
        if program is None:
            raise ConfigurationError("there is no git program on the PATH; install git to run the demo")
        try:
            return subprocess.Popen(  # noqa: S603 (the arguments are this package's own)
                [program, "-C", str(self.folder), *_SETTINGS, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=_environment(os.environ),
                start_new_session=True,  # Ctrl-C is for the demo, which then stops git
            )
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ConfigurationError(f"git cannot be run: {error}") from error

    def _failure(self, arguments: tuple[str, ...], said: bytes) -> GitFailed:
        lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
        reason = "; ".join(lines) or "it gave no reason"
        return GitFailed(f"git {arguments[0]} failed in {self.folder}", reason)


def _environment(current: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in current.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    return {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def _cut(pipe: IO[bytes] | None) -> Generator[bytes, None, None]:
    assert isinstance(pipe, io.BufferedReader)  # noqa: S101 - so Popen makes it
    rest = b""
    while chunk := pipe.read1(_CHUNK):  # what is there: git may be slow, and Ctrl-C should not wait for a full chunk
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole
    if rest:
        yield rest
