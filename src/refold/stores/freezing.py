"""Views that are saved one by one, as checked rows."""

from __future__ import annotations

from typing import Any

from refold.cells import check
from refold.errors import DefinitionError
from refold.view import Row, View, ViewSchema

__all__ = ["frozen"]


def frozen(schema: ViewSchema[Any], view: View) -> Row:
    """A view's row, which the type table allows.

    Raises:
        RowRefused: a value that its column cannot hold.
        DefinitionError: it is a view of another class.
    """
    if not isinstance(view, schema.view):
        raise DefinitionError(f"this table holds {schema.view.__name__}, not {type(view).__name__}")
    row = schema.freeze(view)
    check(schema, row)
    return row
