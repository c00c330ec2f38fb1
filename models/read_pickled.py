"""Read what torch.save wrote without running code: objects of harmless classes beside the tensors become stubs."""

import enum
import io
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from resnetrt.errors import WeightsError

# What training scripts store beside the weights: options, paths, dates, numbers, settings. A name that ends in a dot is
# everything in that module.
_INERT = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "pathlib.",
    "datetime.",
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "numpy.dtype",
    "numpy.dtypes.",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torchvision.transforms.functional.InterpolationMode",
    "omegaconf.",
    "typing.Any",
)
_FACTORIES = ("list", "dict", "int", "float", "str", "tuple", "bool")  # of a defaultdict
# pickle fills these after they are made, which torch's reader does for plain ones only
_MAPPINGS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
_SEQUENCES = ("collections.deque",)


class Inert:
    """Stands for an object of a harmless class and keeps nothing of it; the class is neither imported nor called."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        """What the object would hold is dropped."""


class _Member:
    """Stands for a member of an enumeration of a module that is not imported: pickle writes the class and a value."""

    def __new__(cls, *value: object) -> "_Member":
        """The stand-in; raises `_NotAMember` for an object that was made of anything else."""
        if len(value) != 1 or not isinstance(value[0], str | int | float):
            raise _NotAMember(cls.__name__)
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        raise _NotAMember(type(self).__name__)  # a member has no state beside its value


class _NotAMember(Exception):
    """The class of this name is no enumeration."""


class _EmptyMapping:
    def __new__(cls, *_: object) -> Any:
        """A plain dictionary, to be filled."""
        return {}


class _EmptySequence:
    def __new__(cls, *_: object) -> Any:
        """A plain list, to be filled."""
        return []


def read_pickled(blob: bytes, path: Path) -> object:
    """What torch.save wrote to `path`, whose bytes are `blob`; tensors on the CPU, `Inert` for harmless objects.

    Raises `WeightsError` for a damaged file, and for the first object that is neither, by its class.
    """
    stubs = dict[str, type]()
    while True:
        try:
            _check_crc(blob, known=bool(stubs))
            with warnings.catch_warnings(), torch.serialization.safe_globals([(s, name) for name, s in stubs.items()]):
                warnings.simplefilter("ignore")  # about pickle protocols; the error below says what matters
                return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
        except _NotAMember as error:
            raise _refused(path, str(error)) from error
        except Exception as error:  # a damaged pickle can raise anything: EOFError, KeyError, ValueError, RuntimeError
            if not _needs_code(error, blob):
                raise damaged(path, "a torch.save state dict", error) from error
            name = code[1] if (code := re.search(r"GLOBAL (\S+)", str(error))) else ""
            if name in _FACTORIES:  # torch's error leaves their module out
                name = f"builtins.{name}"
            stub = None if name in stubs else _stub(name)
            if stub is None:
                raise _refused(path, name) from error
            stubs[name] = stub


def damaged(path: Path, kind: str, error: Exception) -> WeightsError:
    """The error for a file that is not what its name says, or not all of it."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0]
    return WeightsError(
        f"weights {path}: expected {kind}, found a truncated or damaged file ({reason}); fetch it again"
    )


def _refused(path: Path, name: str) -> WeightsError:
    kind = f"pickled code ({name})" if name else "pickled code"
    return WeightsError(
        f"weights {path}: expected tensors only, found {kind}, which is never run; convert it where you trust it: "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )


def _stub(name: str) -> type | None:
    """A stand-in for the harmless class `name`, None for any other."""
    if name in _MAPPINGS:
        return _EmptyMapping
    if name in _SEQUENCES:
        return _EmptySequence
    listed = any(name.startswith(item) if item.endswith(".") else name == item for item in _INERT)
    listed = listed or name.removeprefix("builtins.") in _FACTORIES
    if listed or _is_known_enumeration(name):
        return type(name, (Inert,), {})
    return type(name, (_Member,), {}) if _may_be_an_enumeration(name) else None


def _is_known_enumeration(name: str) -> bool:
    """Whether this is an enumeration of a module that is imported already; nothing is imported for it."""
    module, _, attribute = name.rpartition(".")
    kind = getattr(sys.modules.get(module), "__dict__", {}).get(attribute)  # a module may be blocked by None
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _may_be_an_enumeration(name: str) -> bool:
    """Whether this is named as a class, and of a package: the ones of Python itself are listed above or imported."""
    root, _, rest = name.partition(".")
    return root not in sys.stdlib_module_names and rest.rpartition(".")[2][:1].isupper()


def _check_crc(blob: bytes, known: bool) -> None:
    # torch.load does not compare the checksums that torch.save stored; once is enough
    if not known and zipfile.is_zipfile(io.BytesIO(blob)):
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")


def _needs_code(error: Exception, blob: bytes) -> bool:
    text = str(error)
    if "GLOBAL" in text or "TorchScript" in text:
        return True
    # a plain pickle of a newer protocol: well-formed, but torch's restricted reader stops at an unknown instruction
    return isinstance(error, pickle.UnpicklingError) and blob[:1] == b"\x80" and blob[-1:] == b"."
