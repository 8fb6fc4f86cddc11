"""What is done for every message, in C where it was built: see `native.h`. Without it the same is done in Python, more slowly.

Everything here is None where it was not built.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["EnvelopeDecoder", "Frames", "OwnStep", "Parser", "RowCodec", "StructDecoder", "Views", "dispatch"]

Parser: Any = None
"""``Parser(sid, prefix, capacity, hole)``: see `refold.jetstream.frames.FrameParser`."""

Frames: Any = None
"""What a `Parser` gives: see `refold.jetstream.frames.Frames`."""

EnvelopeDecoder: Any = None
"""``EnvelopeDecoder(slow, payload, quick, event_class, payload_version)`` is the `PayloadDecoder` `slow`, which `dispatch` does
without for envelopes that are written as refold writes them. Their payloads go to `quick`, a `StructDecoder`, if it is not None,
and what that leaves over to `payload`."""

StructDecoder: Any = None
"""``StructDecoder(class, Decimal, fields)``: see `refold.codecs.structs`."""

OwnStep: Any = None
"""``OwnStep(view_class, event_class, hot, handler, miss, failed, finish, duplicate)``: see `refold.engine.step.own_step`."""

RowCodec: Any = None
"""``RowCodec(view_class, names, kinds, flags, limit, Decimal, UUID)``: see `refold.view.ViewSchema`."""

Views: Any = None
"""``Views()`` is as much of a ``dict[str, View]`` as `refold.engine.cache.ViewCache` needs."""

dispatch: Any = None
"""``dispatch(frames, tables, grows, unusual)`` gives every message to the step of its entry, and calls `unusual` with the index
of each that needs a closer look; `grows` says whether `tables` may grow then. See `refold.engine.dispatch.Dispatcher`."""

try:
    _native: Any = import_module("refold.speedups._native")
except ImportError:  # there was no C compiler
    pass
else:
    Parser, Frames, dispatch = _native.Parser, _native.Frames, _native.dispatch
    EnvelopeDecoder, StructDecoder = _native.EnvelopeDecoder, _native.StructDecoder
    OwnStep, RowCodec, Views = _native.OwnStep, _native.RowCodec, _native.Views
