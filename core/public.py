"""The public names of a subpackage, imported when first asked for: `import resnetrt.export` stays light (PEP 562)."""

import importlib
from collections.abc import Callable, Mapping


def lazily(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of `package` for the names in `places`, each with the module below `package` that defines it.

    It raises `AttributeError` for any other name.
    """

    def find(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return find
