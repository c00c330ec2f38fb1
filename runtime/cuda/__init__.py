"""CUDA memory, streams, events and graphs behind one small protocol."""

from resnetrt.runtime.cuda.choose import open_cuda
from resnetrt.runtime.cuda.device import Device, choose_device, chosen_device, find_devices
from resnetrt.runtime.cuda.protocol import Cuda, DeviceBuffer, PinnedBuffer

__all__ = [
    "Cuda",
    "Device",
    "DeviceBuffer",
    "PinnedBuffer",
    "choose_device",
    "chosen_device",
    "find_devices",
    "open_cuda",
]
