"""Finding handlers that are not deterministic: that ask the clock, draw at random, do I/O, or keep something between events.

A profile function sees every call of a function written in C that the user's code makes, directly or through Python code of
others; clocks, random numbers and I/O all end in such calls. What C code calls in turn is not seen, so each history is also
folded twice, and must come to the same rows.
"""

from __future__ import annotations

import dataclasses
import linecache
import random
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from types import BuiltinFunctionType, FrameType
from typing import Any, Final

from refold.engine.projector import Projector
from refold.event import DomainEvent
from refold.testing.history import decoded, told_events
from refold.testing.plain import PlainFold

__all__ = ["Impurity", "Watch", "check_deterministic", "impurities", "indeterminism"]

_CLOCK: Final = {
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
    *("process_time_ns", "thread_time", "thread_time_ns", "clock_gettime", "clock_gettime_ns", "sleep", "localtime"),
}
_NOW: Final = {"now", "utcnow", "today"}
_RANDOM: Final = {"urandom", "getrandom"}
_FILES: Final = {
    *("open", "read", "write", "stat", "lstat", "access", "listdir", "scandir", "mkdir", "rmdir", "remove", "unlink"),
    *("rename", "replace", "link", "symlink", "readlink", "truncate", "system", "popen", "fork", "posix_spawn", "pipe"),
}
_IO_MODULES: Final = {"_socket", "_ssl", "select", "_posixsubprocess", "_sqlite3", "sqlite3", "_winapi", "_overlapped"}
_GLOBAL_RANDOM: Final = random.random.__self__  # type: ignore[attr-defined]  # the generator behind the module's functions

_PASSED_OVER: Final = ("importlib", "logging", "warnings", "linecache", "traceback", "abc", "typing", "inspect")
"""Modules that do such things for reasons of their own: an import, a log line, a warning."""

_LIBRARY: Final = sysconfig.get_paths()["stdlib"]


@dataclasses.dataclass(frozen=True, slots=True)
class Impurity:
    """A call that a handler must not make.

    Attributes:
        kind: ``clock``, ``randomness`` or ``I/O``.
        call: what is called.
        handler: the method, or what else of the projector.
        file, line: where.
        source: the line's text.
    """

    kind: str
    call: str
    handler: str
    file: str
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.handler} uses {self.kind}: {self.call}\n    {self.file}:{self.line}: {self.source}"


class Watch:
    """Calls pieces of the user's code and takes note of what they must not do.

    Attributes:
        found: each finding once, in order.
    """

    def __init__(self) -> None:
        self.found: dict[Impurity, None] = {}
        self._what = ""

    def call(self, what: str, function: Callable[..., Any], *args: Any) -> Any:
        """What the function gives."""
        self._what = what
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            return function(*args)
        finally:
            sys.setprofile(before)

    def _profile(self, frame: FrameType, event: str, callee: Any) -> None:
        if event == "c_call":
            found = _hazard(callee)
            if found is not None:
                self._note(frame, *found)

    def _note(self, frame: FrameType, kind: str, call: str) -> None:
        frames = list(self._inside(frame))
        if not frames or any(_module(one).startswith(_PASSED_OVER) for one in frames):
            return
        mine = next((i for i, one in enumerate(frames) if not _is_library(one)), len(frames) - 1)
        if mine:  # the user called a function of the library, which called this one
            inner = frames[mine - 1]
            call = f"{_module(inner)}.{inner.f_code.co_qualname} ({call})"
        where = frames[mine]
        file, line = where.f_code.co_filename, where.f_lineno
        source = linecache.getline(file, line).strip()
        self.found[Impurity(kind, call, self._what, file, line, source)] = None

    def _inside(self, frame: FrameType | None) -> Iterator[FrameType]:
        """The frames of the user's code, innermost first."""
        while frame is not None and frame.f_code is not Watch.call.__code__:
            yield frame
            frame = frame.f_back


def _hazard(callee: Any) -> tuple[str, str] | None:
    """What kind of thing a function in C is, and its name; None for a harmless one."""
    if not isinstance(callee, BuiltinFunctionType):
        return None
    name, module, owner = callee.__name__, callee.__module__ or "", callee.__self__
    if module == "time" and name in _CLOCK:
        return "the clock", f"time.{name}"
    if name in _NOW and isinstance(owner, type) and issubclass(owner, date):
        return "the clock", f"{owner.__name__}.{name}"
    if owner is _GLOBAL_RANDOM:
        return "randomness", f"random.{name}"
    if (module in ("posix", "nt") and name in _RANDOM) or module == "_uuid":
        return "randomness", f"os.{name}" if module != "_uuid" else f"uuid.{name}"
    if (module in ("io", "_io") and name in ("open", "open_code")) or (module in ("posix", "nt") and name in _FILES):
        return "I/O", "open" if module in ("io", "_io") else f"os.{name}"
    kind = (module or type(owner).__module__).partition(".")[0]
    if kind in _IO_MODULES or isinstance(owner, _socket_class()) or (module, name) == ("builtins", "input"):
        return "I/O", f"{kind.removeprefix('_')}.{name}"
    return None


def _socket_class() -> type[Any] | tuple[()]:
    """The class of sockets, where anything has imported it."""
    module = sys.modules.get("_socket")
    return () if module is None else module.socket


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith("<frozen") or (file.startswith(_LIBRARY) and "site-packages" not in file)


# -- A whole projector -------------------------------------------------------------------------------------------------


def impurities(projector: Projector[Any], events: Sequence[DomainEvent[Any]]) -> list[Impurity]:
    """What handlers do in a history that they must not."""
    watch = Watch()
    PlainFold(projector, watch.call).feed_all(decoded(projector.spec, events))
    return list(watch.found)


def check_deterministic(projector: Projector[Any], events: Sequence[DomainEvent[Any]]) -> None:
    """Makes sure that a history comes to the same views however often it is folded, and that handlers ask nothing but the event.

    Args:
        projector: the user's fold.
        events: the history, as that of a `Scenario`.

    Raises:
        AssertionError: names the handler, what it calls, and the line; or the views that are different.
    """
    reason = indeterminism(projector, events)
    if reason:
        raise AssertionError(f"{projector.spec.name} {reason}\nevents:\n{told_events(events)}")


def indeterminism(projector: Projector[Any], events: Sequence[DomainEvent[Any]]) -> str:
    """Why a history may come to other views the next time; empty where it does not."""
    found = impurities(projector, events)
    if found:
        told = "\n".join(f"  {one}" for one in found)
        return (
            f"is not deterministic, so a rebuild gives other views than live running:\n{told}\n"
            "take times and ids from the event, and fetch nothing: put what is needed into the events"
        )
    first, second = PlainFold(projector), PlainFold(projector)
    for fold in (first, second):
        fold.feed_all(decoded(projector.spec, events))
    if first.unstorable is not None or first.rows == second.rows:
        return ""
    key = min(key for key in {*first.views, *second.views} if first.rows.get(key) != second.rows.get(key))
    return (
        "is not deterministic: folded twice, the same events give other views. Does it keep something on self or in a module, "
        f"or draw at random?\n  first:  {first.views.get(key)!r}\n  second: {second.views.get(key)!r}"
    )
