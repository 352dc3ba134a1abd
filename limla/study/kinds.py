"""Numbers and truth values as TOML means them: "3" is no number, and true is not 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

_EXPECTED = {
    "int": "a whole number, without quotes",
    "float": "a number, without quotes",
    "bool": "true or false",
    "tuple[int, ...]": "a list of whole numbers, without quotes",
}


def wrong_kind(plan: type, entries: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first entry of a dataclass's plain values that is of another kind: its name and what is expected, or None.

    Only numbers and truth values are looked at, which pydantic would turn into one another.
    """
    for item in fields(plan):
        expected = _EXPECTED.get(str(item.type))
        if expected is None or item.name not in entries:
            continue
        value = entries[item.name]
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, str) or isinstance(part, bool) != (item.type == "bool"):
                return item.name, expected
    return None
