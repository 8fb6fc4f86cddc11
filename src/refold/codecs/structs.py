"""Which structs the C part decodes by itself, and how it is told about them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, Generic

import msgspec
import msgspec.inspect as mi

import refold.speedups as speedups

__all__ = ["struct_decoder"]

_KINDS: Final[dict[type, str]] = {
    mi.FloatType: "f",
    mi.BoolType: "b",
    mi.DecimalType: "d",
    mi.DateTimeType: "t",
    mi.StrType: "s",
    mi.IntType: "i",
}


def struct_decoder(cls: Any) -> Any:
    """A `refold.speedups.StructDecoder` that gives what ``msgspec.json.decode(…, type=cls)`` gives, or None where it leaves a
    text to msgspec; None where `cls` is no struct that it can make: one with gc, a tag, fields of its own making, ….
    """
    if speedups.StructDecoder is None or not (isinstance(cls, type) and issubclass(cls, msgspec.Struct)):
        return None
    try:
        return _decoder(mi.type_info(cls), ())
    except (TypeError, NameError, AttributeError):  # names that cannot be looked up, or a class that is not as expected
        return None


def _decoder(info: mi.Type, within: tuple[type, ...]) -> Any:
    """The decoder of a struct; None where there is none."""
    if not isinstance(info, mi.StructType) or info.array_like or info.forbid_unknown_fields or info.tag is not None:
        return None
    cls = info.cls
    if not isinstance(cls, type) or issubclass(cls, Generic):  # fields of a type variable are msgspec's to resolve
        return None
    config = cls.__struct_config__
    if (
        config.gc
        or config.cache_hash
        or config.dict
        or config.weakref
        or hasattr(cls, "__post_init__")
        or cls in within
    ):
        return None
    fields = tuple(_field(field, cls, (*within, cls)) for field in info.fields)
    return speedups.StructDecoder(cls, Decimal, fields)


def _field(field: mi.Field, cls: type, within: tuple[type, ...]) -> tuple[Any, ...]:
    info, nullable = field.type, False
    if isinstance(info, mi.UnionType):
        rest = [one for one in info.types if not isinstance(one, mi.NoneType)]
        nullable = len(rest) < len(info.types)
        info = rest[0] if len(rest) == 1 else info
    kind, other = _KINDS.get(type(info), "o"), None
    nested = _decoder(info, within)
    if nested is not None:
        kind, other = "S", nested
    elif kind == "o" or not _is_bare(info):
        kind, other = "o", msgspec.json.Decoder(_hint(cls, field.name)).decode
    if not field.required and field.default is msgspec.NODEFAULT:
        raise TypeError("a default that is made anew each time")
    default = ... if field.required else field.default
    return field.name, f'"{field.encode_name}"'.encode(), kind, nullable, other, default


def _is_bare(info: mi.Type) -> bool:
    """Whether a type is without constraints."""
    return info == type(info)()


def _hint(cls: type, name: str) -> Any:
    from typing import get_type_hints

    return get_type_hints(cls, include_extras=True)[name]
