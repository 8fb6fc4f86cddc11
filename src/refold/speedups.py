"""The C part, where it was built: see `_speedups.c`. Without it the same is done in Python, more slowly."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["dispatch", "parse"]

parse: Any = None
"""``parse(data, sid, prefix, types, ids, names, headers, bodies, positions, deliveries)`` appends the message frames that
data begins with to the lists; gives how many bytes they take, and the pending count of the last. None where not built."""

dispatch: Any = None
"""``dispatch(types, ids, names, positions, bodies, headers, tables, unusual)`` gives every message to the step of its entry,
and calls `unusual` with the index of each that needs a closer look. None where not built."""

try:
    _built: Any = import_module("refold._speedups")
except ImportError:  # there was no C compiler
    pass
else:
    parse, dispatch = _built.parse, _built.dispatch
