"""resnetrt turns PyTorch ResNets into verified, deployable INT8 and FP16 engines."""

from importlib.metadata import PackageNotFoundError, version

from resnetrt.telemetry import turn_off

turn_off()  # here, because this module is imported before every other one of resnetrt, and before what they import

try:
    __version__ = version("resnetrt")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
