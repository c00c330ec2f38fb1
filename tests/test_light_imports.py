"""What runs on an edge device, and what only prints help, loads no heavy package."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxscript", "openvino", "tensorrt", "tensorrt_lean", "tensorrt_rtx", "pycuda", "matplotlib")
HEAVY += ("starlette", "uvicorn", "grpc", "tritonclient", "prometheus_client")


def loaded_by(code: str, names: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of `names` a new interpreter holds after running `code`."""
    report = f"import sys; print('loaded:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import resnetrt.runtime",
        "import resnetrt.runtime.stream",
        "import resnetrt.doctor",
        "from resnetrt.cli import run; run(['--help'])",
        "from resnetrt.cli import run; run(['doctor', '--help'])",
        "from resnetrt.cli import run; run(['serve', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(code: str):
    assert loaded_by(code) == set()


def test_a_planted_import_is_seen():
    assert loaded_by("import resnetrt.runtime, sys; sys.modules['torch'] = sys") == {"torch"}


def test_an_engine_starts_without_what_reads_versions():
    """It is a tenth of the start, for a version that only a report asks for."""
    assert loaded_by("import resnetrt.runtime", ("importlib.metadata",)) == set()
    assert loaded_by("import resnetrt; resnetrt.__version__", ("importlib.metadata",))
