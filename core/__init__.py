"""resnetrt turns PyTorch ResNets into verified, deployable INT8 and FP16 engines."""

from resnetrt.telemetry import turn_off

turn_off()  # here, because this module is imported before every other one of resnetrt, and before what they import

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """`__version__` when it is first asked for: reading it costs a tenth of an engine's start."""
    if name != "__version__":
        raise AttributeError(f"module 'resnetrt' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("resnetrt")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
