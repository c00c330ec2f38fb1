"""May two runs be compared? Only under the same conditions, save what is under test itself."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from resnetrt.errors import UsageError

_MAY_DIFFER = {"revision", "versions.resnetrt", "schedule"}
_MISSING = "nothing"


def check_conditions(old: Mapping[str, Any], new: Mapping[str, Any], accept: Iterable[str] = ()) -> None:
    """Raise `UsageError` naming every condition that differs, save those in `accept` and what is under test."""
    differing = differences(old, new, {*_MAY_DIFFER, *accept})
    if differing:
        raise UsageError(
            f"--compare: the runs' conditions differ: {'; '.join(differing)}; "
            "measure the old revision again here, or accept one by name with --accept"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], accepted: Container[str] = ()) -> list[str]:
    """Every condition that differs, then and now, save those that are accepted."""
    before, after = _flat(old), _flat(new)
    return [
        f"{name} {before.get(name, _MISSING)} then, {after.get(name, _MISSING)} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name) and name not in accepted
    ]


def _flat(conditions: Mapping[str, Any]) -> dict[str, Any]:
    versions = {f"versions.{name}": value for name, value in conditions.get("versions", {}).items()}
    return {name: value for name, value in conditions.items() if name != "versions"} | versions
