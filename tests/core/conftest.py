"""A small bundle without torch or ONNX: the core does not care what its files hold."""

from collections.abc import Callable
from pathlib import Path

import pytest

from resnetrt.bundle import Bundle, create_bundle
from resnetrt.manifest import InputSpec, Manifest, VariantRecord
from resnetrt.preprocess import Preprocessing

FILES = {"fp32.onnx": b"the float model" * 100, "engines/one.bin": b"\x00\x01" * 500, "fold.json": b'{"folded": 3}\n'}


def new_manifest() -> Manifest:
    return Manifest(
        name="net",
        model={"definition": "net", "options": {}},
        weights={"sha256": "0" * 64},
        input=InputSpec("input", (3, 32, 32)),
        output="logits",
        classes=10,
        preprocessing=Preprocessing("RGB", 32, (32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        labels=["größe", "b"],
        variants={"fp32": VariantRecord("fp32.onnx", "fp32", evidence={"parity": {"max_abs": 1e-6}})},
        tools={"numpy": "2.4.6"},
    )


@pytest.fixture
def manifest() -> Manifest:
    return new_manifest()


@pytest.fixture
def make_bundle() -> Callable[[Path], Bundle]:
    def make(path: Path) -> Bundle:
        with create_bundle(path, new_manifest()) as editor:
            for name, blob in FILES.items():
                editor.write(name, blob)
        return Bundle.open(path)

    return make


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[[Path], Bundle]) -> Bundle:
    return make_bundle(tmp_path / "net.bundle")
