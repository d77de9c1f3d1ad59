"""JSON as tariff files are read: numbers keep their text, and a field that is given twice is an error.

JSON leaves open which of two equal fields counts, and it may be a price.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from rater.loader.fields import JsonNumber


class DuplicateField(ValueError):
    """An object has two fields of the same name."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise DuplicateField(next(name for name in counts if counts[name] > 1))
    return values


loads: Final = json.JSONDecoder(object_pairs_hook=_object, parse_float=JsonNumber).decode
"""A text's value, with `JsonNumber` for numbers that are not whole. Raises ValueError, DuplicateField
among them, and RecursionError."""
