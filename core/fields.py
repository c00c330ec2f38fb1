"""The fields of a JSON object, each read with the type that it must have."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar, cast

from resnetrt.errors import BundleError

T = TypeVar("T")
JsonObject = dict[str, Any]  # a JSON object of any content: read from outside and not checked yet, or to be written

_ABSENT = object()
_LONGEST = 60  # characters of a value in a message
_WORDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Fields:
    """A JSON object of a bundle. What is missing, or of another type, raises one `BundleError`.

    The message begins with `where` and ends with the `remedy`; `path` is where in the file the object stands.
    """

    stored: Mapping[str, Any]
    where: str
    remedy: str
    path: str = ""

    def get(self, name: str, kind: type[T]) -> T:
        """The field, which must be there. A `float` may be stored as an integer."""
        value = self.stored.get(name, _ABSENT)
        if not is_a(value, kind):
            self.refuse(name, _WORDS[kind])
        return cast(T, value)

    def optional(self, name: str, kind: type[T]) -> T | None:
        """The field; None if it is absent or null."""
        return None if self.stored.get(name) is None else self.get(name, kind)

    def items(self, name: str, kind: type[T]) -> tuple[T, ...]:
        """A list of which each item is of one type."""
        values = self.get(name, list)
        if not all(is_a(value, kind) for value in values):
            self.refuse(name, f"a list, each item {_WORDS[kind]}")
        return tuple(values)

    def mapping(self, name: str, kind: type[T]) -> dict[str, T]:
        """An object of which each value is of one type."""
        values = self.get(name, dict)
        if not all(is_a(value, kind) for value in values.values()):
            self.refuse(name, f"an object, each value {_WORDS[kind]}")
        return values

    def inner(self, name: str) -> "Fields":
        """The fields of an object in this one."""
        return replace(self, stored=self.get(name, dict), path=f"{self.path}{name}.")

    def inners(self, name: str) -> "tuple[Fields, ...]":
        """The fields of each object of a list."""
        return tuple(
            replace(self, stored=item, path=f"{self.path}{name}[{place}].")
            for place, item in enumerate(self.items(name, dict))
        )

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Raise the `BundleError` for a field that is not as `expected`."""
        value = self.stored.get(name, _ABSENT)
        text = "nothing" if value is _ABSENT else json.dumps(value)
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        raise BundleError(f"{self.where}: expected {expected} as {self.path}{name}, found {text}; {self.remedy}")


def is_a(value: object, kind: type) -> bool:
    """Whether a JSON value is of a type, where true and false are no numbers."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
