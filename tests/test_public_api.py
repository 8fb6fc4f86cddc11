"""What ``refold`` offers by name, and that all of it is explained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import refold

MODULES = sorted({"refold", *(module.name for module in pkgutil.walk_packages(refold.__path__, "refold."))})
_FUTURE = type(importlib.import_module("__future__").annotations)


def in_order(names: list[str]) -> list[str]:
    """As ruff's RUF022 wants them: CONSTANTS, then Classes, then the rest."""
    return sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[:1].isupper() else 2, name))


def public_names(module: ModuleType) -> set[str]:
    return {
        name
        for name in dir(module)
        if not name.startswith("_") and not isinstance(getattr(module, name), (ModuleType, _FUTURE))
    }


def told(thing: Any) -> bool:
    """Whether it has a docstring of its own or of what it implements; one made by the dataclass decorator is none."""
    text = inspect.getdoc(thing) or ""
    return bool(text.strip()) and not text.startswith(f"{getattr(thing, '__name__', '')}(")


def public_members(cls: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that refold defines for a class and its bases."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] != "refold":
            continue
        for name, member in vars(base).items():
            kinds = (staticmethod, classmethod, property)
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, kinds)):
                yield f"{base.__name__}.{name}", getattr(cls, name)


def test_all_is_in_order_without_doubles() -> None:
    assert list(refold.__all__) == in_order(list(set(refold.__all__)))


def test_all_is_what_the_namespace_offers() -> None:
    assert {name for name in refold.__all__ if not name.startswith("__")} == public_names(refold)


def test_all_names_can_be_imported_with_a_star() -> None:
    assert refold.__all__
    for name in refold.__all__:
        assert getattr(refold, name) is not None


def test_public_names_and_their_methods_have_docstrings() -> None:
    offered = [getattr(refold, name) for name in refold.__all__]
    explained = [thing for thing in offered if inspect.isclass(thing) or inspect.isroutine(thing)]
    silent = [thing.__qualname__ for thing in explained if not told(thing)]
    for cls in filter(inspect.isclass, explained):
        silent += [name for name, member in public_members(cls) if not told(member)]
    assert sorted(set(silent)) == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_explained_and_offers_what_it_names(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    offered = list(getattr(module, "__all__", []))
    assert offered == in_order(offered)
    assert [missing for missing in offered if not hasattr(module, missing)] == []
