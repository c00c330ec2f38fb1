"""How `make docs` builds the site: the repository's own pages, and a reference made from the code.

The source folder is the repository's root, so the links of a page are the same here and in a checkout.
"""

import json
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

project, author = "resnetrt", "resnetrt contributors"
version = release = installed_version("resnetrt")
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**",
    "deploy/README.md",
    "benchmarks/results/**",
]
exclude_patterns = ["docs/_templates"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]

smartquotes = False  # options keep their two dashes
default_role = "code"  # docstrings mark code by single backticks, as Markdown does
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"resnetrt {version}"
html_show_sphinx = html_show_sourcelink = html_copy_source = False
templates_path = ["_templates"]
html_additional_pages = {"index": "to_docs.html"}

# public names are imported when they are first used, and autodoc documents what is there
PACKAGES = ("runtime", "runtime.stream", "export", "calibration", "benchmarks", "models")
for package in (import_module(f"resnetrt.{name}") for name in PACKAGES):
    for public_name in package.__all__:
        setattr(package, public_name, getattr(package, public_name))


SCHEMAS = Path(__file__).parent / "reference" / "schemas"
JSON_PAGE = "docs/reference/json"


def setup(app: Sphinx) -> None:
    """The page on JSON ends with a table for each schema; commands have the sections of their help."""
    app.connect("source-read", _add_tables)
    app.connect("sphinx-click-process-options", _add_sections)


def _add_sections(_: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    sections = getattr(ctx.command, "sections", {})
    with_titles: list[str] = []
    for line in lines:
        first = line.removeprefix(".. option:: ").split(",")[0].split(" ")[0]
        if line.startswith(".. option:: ") and first in sections:
            with_titles += [f"**{sections[first]}**", ""]
        with_titles.append(line)
    lines[:] = with_titles


def _add_tables(app: Sphinx, page: str, source: list[str]) -> None:
    if page == JSON_PAGE:
        paths = sorted(SCHEMAS.glob("*.json"), key=lambda path: (path.stem == "common", path.stem))
        source[0] += "\n".join(line for path in paths for line in _section(path.stem, json.loads(path.read_text())))


def _section(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {name.replace('-', ' ')}\n\n{schema['title']}: [schema](schemas/{name}.json).\n"
    yield from _table(name, schema)
    for row, inner in schema.get("$defs", {}).items():
        yield f"\n(json-{name}-{row})=\n\n### `{row}`\n\n{inner.get('description', '')}\n"
        yield from _table(name, inner)


def _table(name: str, schema: dict[str, Any]) -> Iterator[str]:
    if "properties" not in schema:
        yield _type(name, schema) + "\n"
        return
    for base in schema.get("allOf", ()):
        yield f"All fields of {_type(name, base)}, and:\n"
    yield "| field | type | meaning |\n|---|---|---|"
    for field, inner in schema["properties"].items():
        mark = "" if field in schema["required"] else ", not always there"
        yield f"| `{field}` | {_type(name, inner)}{mark} | {inner.get('description', '').replace('|', '/')} |"
    yield ""


def _type(name: str, schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        place, row = schema["$ref"].split("#/$defs/")
        return f"[{row}](#json-{place.removesuffix('.json') or name}-{row})"
    if "anyOf" in schema:
        return " or ".join(_type(name, option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    words = schema.get("type", "any value")
    words = words if isinstance(words, str) else " or ".join(words)
    if "items" in schema:
        return f"{words} of {_type(name, schema['items'])}"
    values = schema.get("additionalProperties")
    return f"{words} of {_type(name, values)} by name" if isinstance(values, dict) else words
