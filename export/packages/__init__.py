"""A bundle in the layout of other servers (Triton's model repository, KServe's InferenceService), or for a device."""

from resnetrt.export.packages.device import DevicePackage, package_device
from resnetrt.export.packages.kserve import ServiceOptions, package_kserve
from resnetrt.export.packages.model_config import ServingOptions
from resnetrt.export.packages.triton import PackagedModel, package_triton

__all__ = [
    "DevicePackage",
    "PackagedModel",
    "ServiceOptions",
    "ServingOptions",
    "package_device",
    "package_kserve",
    "package_triton",
]
