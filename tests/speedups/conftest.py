"""Tests of the C part, where there was a compiler to build it."""

from __future__ import annotations

from refold import speedups

collect_ignore_glob = [] if speedups.dispatch is not None else ["test_*.py"]
