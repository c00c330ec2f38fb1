"""The largest magnitude of each recorded activation, read from the header of the bundle's calibration record.

The record is written by `resnetrt.calibration.observe.record`, a floor above; only its JSON header is read here.
"""

import json

from resnetrt.bundle import Bundle
from resnetrt.errors import BundleError, UsageError

FILE = "calibration.safetensors"


def recorded_amax(bundle: Bundle) -> dict[str, float] | None:
    """Largest magnitude by tensor name of the FP32 model, or None if the bundle has no calibration record.

    Raises `UsageError` for a record of another model, `BundleError` for a damaged one.
    """
    if FILE not in bundle.manifest.files:
        return None
    path = bundle.file(FILE)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(json.loads(file.read(length))["__metadata__"]["record"])
        tensors = {name: max(abs(float(low)), abs(float(high))) for name, (low, high, *_) in header["tensors"].items()}
        tensors |= {name: float(value) for name, value in header.get("amax", {}).items()}  # where those are equalized
        model = header["model_sha256"]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{path}: expected a calibration record, found {error}; run resnetrt calibrate") from error
    if model != bundle.manifest.files[bundle.manifest.variants["fp32"].file].sha256:
        raise UsageError(f"bundle {bundle.path}: its calibration record is of another fp32.onnx; calibrate again")
    return tensors
