"""Every error a user can meet, split by who must act::

    ResnetrtError            exit code
    ├── CheckFailed              1     a check ran and failed: look at the model or the engine
    ├── UsageError               2     what was asked for makes no sense: change the command
    ├── Inconclusive             3     the check could not decide: give it more data
    └── EnvironmentFault         4     something needed is missing or broken
        ├── DataError                  images, labels, a data folder
        ├── WeightsError               a weights file that does not fit
        ├── BundleError                a bundle that is damaged, tampered with or too new
        ├── BackendRefused             a backend that can't take a sound model
        ├── BackendMissing             a package or device that is not here
        └── DeviceLost                 a GPU that this process can't use any more

A message is one line: expected, found, where, what to do next.
"""

import difflib
from collections.abc import Iterable
from typing import ClassVar

_LISTED = 30
_LONGEST = 200


class ResnetrtError(Exception):
    """Base of all expected errors; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class CheckFailed(ResnetrtError):
    """A verification ran to its end and failed."""


class UsageError(ResnetrtError):
    """The request itself is wrong."""

    exit_code = 2

    @classmethod
    def unknown(cls, kind: str, name: str, known: Iterable[str]) -> "UsageError":
        """An error for a `name` that is not among the `known` ones, with the nearest suggested."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {listed or 'none'}"
        return cls(f"unknown {kind} {name!r}; {hint}")


class Inconclusive(ResnetrtError):
    """A statistical check that needs more data to decide."""

    exit_code = 3


class EnvironmentFault(ResnetrtError):
    """Something needed is missing or broken."""

    exit_code = 4


class DataError(EnvironmentFault):
    """A data set, image or label that can't be used."""


class WeightsError(EnvironmentFault):
    """A weights file that is damaged or does not fit the model."""


class BundleError(EnvironmentFault):
    """A bundle that is damaged, incomplete, tampered with or of a newer schema."""


class BackendRefused(EnvironmentFault):
    """A backend that can't take a model that is sound; another one may."""


class BackendMissing(EnvironmentFault):
    """A backend, package or device that this machine does not have."""


class DeviceLost(EnvironmentFault):
    """A GPU that failed so that this process can never use it again; a new process may."""


def reason(error: Exception) -> str:
    """The kind of an error and its first words; a `repr` may hold the whole file."""
    return f"{type(error).__name__}: {str(error)[:_LONGEST]}"
