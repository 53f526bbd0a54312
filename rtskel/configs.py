"""Configurations that are saved with what they made: frozen dataclasses as dictionaries of JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from typing import Any, ClassVar, Self


class Config:
    """A base for frozen dataclasses whose fields all have defaults; `option`: what a field is called in errors."""

    _option: ClassVar[str]

    def __init_subclass__(cls, option: str) -> None:
        cls._option = option

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it: None for infinity."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; fields that are absent have their defaults.

        Raises:
            ValueError: not a dictionary, a key that is not a field, or a value where a list is expected.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{cls._option}s {values!r}: a dictionary expected")
        known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - known.keys()):
            raise ValueError(f"unknown {cls._option} {unknown[0]!r}")
        return cls(**{key: _value(known[key], value) for key, value in values.items()})


def _value(field: Field[Any], value: Any) -> Any:
    """A field's value from what JSON holds of it."""
    default = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(default, Config) and isinstance(value, Mapping):
        return type(default).from_dict(value)
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{field.name} {value!r}: a list expected")
        return tuple(value)
    return math.inf if value is None and isinstance(default, float) else value
