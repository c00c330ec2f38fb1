"""The results on disk: one group for each step on each network, stored when finished and not made again.

If tools need not be measured side by side, each has its own group, so that a long run can be split anywhere.

A group belongs to a recipe: the versions of the tools, this project's source code, the processor and the arguments. A
group with a different recipe is replaced.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnetrt.atomic import write_file
from resnetrt.benchmarks.verify.prepare import recipe_hash
from resnetrt.conditions import conditions
from resnetrt.errors import DataError

SCHEMA_VERSION = 1
Rows = list[dict[str, Any]]


class ResultStore:
    """Groups in a JSON file, written after each group. With `again`, no existing group counts as finished."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self.groups = _read(path)
        self._again = again

    def group(
        self,
        step: str,
        network: str,
        arguments: dict[str, Any],
        run: Callable[[], tuple[Rows, list[str]]],
        tool: str | None = None,
    ) -> bool:
        """Store the rows and the lines about what was left out that `run` returns; returns whether it had to run."""
        recipe = recipe_of(arguments)
        place = (step, network, tool)
        old = self.groups.get(place)
        if old is not None and old["recipe"] == recipe and not self._again:
            return False
        rows, left_out = run()
        self.groups[place] = {
            "step": step,
            "network": network,
            "tool": tool,
            "recipe": recipe,
            "arguments": arguments,
            "conditions": conditions() | {"peers": peer_versions()},
            "rows": rows,
            "left_out": left_out,
        }
        self._write()
        return True

    def rows(self, step: str) -> Rows:
        """The rows of a step on every network."""
        return [row for (kind, _, _), group in self.groups.items() if kind == step for row in group["rows"]]

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "schema_version": SCHEMA_VERSION,
            "conditions": conditions() | {"peers": peer_versions()},
            "groups": list(self.groups.values()),
        }

    def _write(self) -> None:
        write_file(self.path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())


def recipe_of(arguments: dict[str, Any]) -> str:
    """A hash of twelve hex digits over everything that decides a result."""
    decides = json.dumps([recipe_hash(), peer_versions(), arguments], sort_keys=True)
    return hashlib.sha256(decides.encode()).hexdigest()[:12]


def peer_versions() -> dict[str, str]:
    """Versions of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("nncf", "onnxruntime", "openvino"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _read(path: Path) -> dict[tuple[str, str, str | None], dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {record['schema_version']}")
        return {(group["step"], group["network"], group["tool"]): group for group in record["groups"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected results of an earlier run, found {error}; name another file") from error
