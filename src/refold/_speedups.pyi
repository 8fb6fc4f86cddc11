"""The C part; see `_speedups.c`."""

from collections.abc import Callable
from typing import Any

def parse(
    data: bytes,
    sid: bytes,
    prefix: bytes,
    types: list[str],
    ids: list[str],
    names: list[str],
    headers: list[bytes | None],
    bodies: list[bytes],
    positions: list[int],
    deliveries: list[int],
    /,
) -> tuple[int, int]: ...
def dispatch(
    types: list[str],
    ids: list[str],
    names: list[str],
    positions: list[int],
    bodies: list[bytes],
    headers: list[bytes | None],
    tables: dict[str, dict[str, tuple[Any, ...]]],
    unusual: Callable[[int], None],
    /,
) -> None: ...
