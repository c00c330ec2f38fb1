import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving_process import ServeProcess, serving

from resnetrt.bundle import Bundle

LABELS = [f"class {index}" for index in range(10)]


@pytest.fixture(scope="session")
def labelled_bundle(shared_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with class names; not to be changed."""
    path = tmp_path_factory.mktemp("serving") / "tiny.bundle"
    shutil.copytree(shared_bundle.path, path)
    with Bundle.open(path).edit() as editor:
        editor.manifest.labels = LABELS
    return path


@pytest.fixture(scope="session")
def server(labelled_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server of the tiny network in FP32 that lets clients load and unload; shared by the tests."""
    arguments = [labelled_bundle, "--engine", "onnxruntime-fp32-cpu", "--model-control-mode", "explicit"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with serving(log, [*arguments, "--threads", "1", "--exit-timeout-secs", "5"]) as running:
        yield running
