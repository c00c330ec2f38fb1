"""Things that tests of several folders share."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from resnetrt.bundle import Bundle

settings.register_profile("shared-machine", deadline=None, max_examples=60)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared-machine"))


@pytest.fixture(autouse=True, scope="session")
def _quick_exports() -> None:
    """A run of many tests exports hundreds of networks; one test alone need not import torch for this."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from resnetrt.benchmarks.studies.network_fuzz.workers import translate_once

        translate_once()


@pytest.fixture
def full_disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of its own with a few bytes; skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(size_bytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        mounted.append(place)
        return place

    yield mount
    if mounted:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def full_disk(full_disk_of: Callable[[int], Path]) -> Path:
    """A file system of its own with 256 KiB."""
    return full_disk_of(256 << 10)


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The FP32 file of a network of `small_models.CONFIGS`, folded and traced once; not to be changed."""
    import small_models

    from resnetrt.export.fold.fold import fold_batch_norms
    from resnetrt.export.trace.trace import write_onnx

    folder = tmp_path_factory.mktemp("small")

    @cache
    def trace(kind: str) -> Path:
        fold = fold_batch_norms(small_models.build(kind), small_models.pictures(kind, 2))
        write_onnx(fold.program, folder / f"{kind}.onnx")
        return folder / f"{kind}.onnx"

    return trace


@pytest.fixture(scope="session")
def exported_fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded network as a bundle with a calibration record, made once; not to be changed."""
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.calibration.observe.collect import calibrate_bundle
    from resnetrt.export.fp32.export import export_bundle

    path = tmp_path_factory.mktemp("fashion") / "fashion.bundle"
    bundle, _ = export_bundle(prepare_export("fashion_resnet20"), path)
    calibrate_bundle(bundle, "fashion_calib", 256)
    return path


@pytest.fixture
def fashion_bundle(exported_fashion: Path, tmp_path: Path) -> "Bundle":
    """A copy of the embedded network's bundle for one test to change."""
    from resnetrt.bundle import Bundle

    shutil.copytree(exported_fashion, tmp_path / "fashion.bundle")
    return Bundle.open(tmp_path / "fashion.bundle")
