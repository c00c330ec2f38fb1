"""A machine that seems to have an sm86 and TensorRT 10.9, both doubles; and a program that runs a command there.

    PYTHON double_machine.py BUNDLE COMMAND...

The engines' doubles compute the FP32 file of BUNDLE. SIGUSR1 takes the GPU away, as an illegal memory access does.
"""

import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine_double import VERSION, fake_tensorrt
from host_cuda import HostCuda

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineRecord
from resnetrt.export.compilers.tensorrt import flavour
from resnetrt.manifest import EngineEntry
from resnetrt.runtime.backends import tensorrt, tensorrt_library
from resnetrt.runtime.cuda.device import Device

ENGINE = "tensorrt-fp32-sm86"


def install(
    variant: Path,
    cuda: HostCuda,
    set_attribute: Callable[[Any, str, Any], None] = setattr,
    set_item: Callable[[Any, str, Any], None] = dict.__setitem__,
) -> None:
    """Let this process see such a machine; its engines compute the ONNX file `variant`."""
    for module in (tensorrt_library, flavour):
        set_attribute(module, "find_devices", lambda: ((Device(0, (8, 6)),), ""))
    set_attribute(tensorrt, "open_cuda", lambda *_: cuda)
    for name in ("tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"):
        set_item(sys.modules, name, None)
    set_item(sys.modules, "tensorrt", fake_tensorrt(variant, cuda))


def add_engine(bundle: Bundle, variant: str = "fp32") -> None:
    """Add `ENGINE` to the bundle."""
    about = EngineRecord(ENGINE, "tensorrt", "fp32", "sm86", variant=variant)
    sha256 = bundle.manifest.files[bundle.manifest.variants[variant].file].sha256
    about = replace(about, tools={"tensorrt": VERSION}, variant_sha256=sha256)
    with bundle.edit() as editor:
        editor.write(f"engines/{ENGINE}.engine", b"engine")
        editor.write_json(f"engines/{ENGINE}.json", about.to_json())
        editor.manifest.engines[ENGINE] = EngineEntry(f"engines/{ENGINE}.engine", f"engines/{ENGINE}.json", variant)


def main(bundle: str, *command: str) -> int:
    from resnetrt.cli import run

    cuda = HostCuda()
    install(Bundle.open(bundle).variant_file("fp32"), cuda)
    signal.signal(signal.SIGUSR1, lambda *_: cuda.lose())
    return run(list(command))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
