import shutil
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.export.engines.compile import choose_variant, compile_variant

CPU_BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(scope="session")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny bundle with every variant compiled for every backend of the CPU; not to be changed."""
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("runtime") / "tiny.bundle")
    for backend in CPU_BACKENDS:
        for variant in ("fp32", "fp32.frames", choose_variant(bundle, backend, "int8")):
            compile_variant(bundle, variant, backend)
    return bundle


@pytest.fixture
def bundle(shared_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the tiny bundle for one test to change."""
    path = tmp_path / "tiny.bundle"
    shutil.copytree(shared_bundle.path, path)
    return Bundle.open(path)


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs on the CPU."""
    return str(request.param)
