"""Which engines of a bundle run here: what can not is named, what another TensorRT package runs is not left out."""

import importlib.util
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, UsageError
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.engines.here import engines_here

ORT, OPENVINO = "onnxruntime-fp32-cpu", "openvino-fp32-cpu"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    for backend in ("onnxruntime", "openvino"):
        compile_variant(made, "fp32", backend)
    return made


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find(name))


def test_all_that_run_here_and_why_the_others_do_not(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    assert engines_here(bundle) == ([ORT, OPENVINO], {})
    hide(monkeypatch, "openvino")
    here, elsewhere = engines_here(bundle)
    assert here == [ORT]
    assert elsewhere == {OPENVINO: "the package openvino is not installed; run: pip install 'resnetrt[openvino]'"}
    with bundle.edit() as editor:
        editor.drop_engine(ORT)
    with pytest.raises(BackendMissing, match=f"expected an engine that can run here, found none: {OPENVINO}: the pack"):
        engines_here(bundle)
    with bundle.edit() as editor:
        editor.drop_engine(OPENVINO)
    with pytest.raises(UsageError, match="no engines yet"):
        engines_here(bundle)


def test_tensorrt_is_asked_for_a_gpu_not_for_one_of_its_packages(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    """The lean and the dispatch runtime run engines too, without the package tensorrt."""
    with bundle.edit() as editor:
        editor.drop_engine(OPENVINO)
        sidecar = f"engines/{ORT}.json"
        stored = bundle.read_json(sidecar) | {"backend": "tensorrt", "target": "sm86"}
        editor.write_json(sidecar, stored)
    hide(monkeypatch, "tensorrt")
    monkeypatch.setattr("resnetrt.export.compilers.tensorrt.flavour.find_devices", lambda: ((GPU(),), ""))
    assert engines_here(Bundle.open(bundle.path)) == ([ORT], {})


class GPU:
    """The GPU that the engine is for."""

    target = "sm86"
