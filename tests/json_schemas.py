"""What commands print with --json, held against the schemas of the documentation.

The schemas allow fields that they do not name, since a later version may add some. The tests do not: a field without a
line in the documentation is an error.
"""

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from source_tree import ROOT

SCHEMAS = ROOT / "docs" / "reference" / "schemas"


def check(command: str, record: Any) -> None:
    """Raise `jsonschema.ValidationError` for a record of `command`, such as `package triton`, that is not as said."""
    _validator(command.replace(" ", "-")).validate(record)


def command_of(arguments: tuple[str, ...]) -> str:
    """The command of a command line, with its second word where it has one."""
    return " ".join(arguments[:2]) if arguments[0] == "package" else arguments[0]


@cache
def _validator(name: str) -> Draft202012Validator:
    schemas = {path.name: _strict(json.loads(path.read_text())) for path in SCHEMAS.glob("*.json")}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    registry = Registry().with_resources((key, Resource.from_contents(value)) for key, value in schemas.items())
    return Draft202012Validator(schemas[f"{name}.json"], registry=registry)


def _strict(schema: Any, closed: bool = True) -> Any:
    """The schema without fields that it does not name, at any depth; what another one builds on stays open."""
    if isinstance(schema, list):
        return [_strict(item, closed) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            inner[key] = {name: _strict(each, key == "properties") for name, each in value.items()}
        else:
            inner[key] = _strict(value, key != "allOf")
    return {"unevaluatedProperties": False, **inner} if closed and inner.keys() & {"properties", "$ref"} else inner
