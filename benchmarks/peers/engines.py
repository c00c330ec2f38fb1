"""Sessions of all tools' models, through the same code: same compiler call, same settings, same `infer`."""

from pathlib import Path

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.export.compilers import find_compiler
from resnetrt.export.engines.compile import compile_variant
from resnetrt.preprocess import FloatArray, Preprocessing, UInt8Array
from resnetrt.runtime import load
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.backends.openvino import shared_core
from resnetrt.runtime.session import Session


def open_own(model: Path, backend: str, threads: int) -> Session:
    """An engine of this project, compiled in its bundle, loaded and checked as for users."""
    bundle = Bundle.open(model.parent)
    variant = next(name for name, record in bundle.manifest.variants.items() if record.file == model.name)
    return load(bundle, compile_variant(bundle, variant, backend), threads=threads)


def open_file(
    model: Path, backend: str, threads: int, preprocessing: Preprocessing, precision: str = "int8"
) -> Session:
    """An engine of any model file, ONNX or OpenVINO's IR, with the settings of this project's engines."""
    compiled = find_compiler(backend).compile_engine(model, precision, "cpu", {})
    blob = model.parent / f"{model.stem}-{backend}.engine.{compiled.extension}"
    blob.write_bytes(compiled.blob)
    record = compiled.record(f"{model.stem}-{backend}", backend, precision, "cpu")
    session = find_backend(backend).load(blob, record, threads)
    session.preprocessing = preprocessing
    return session


def by_formula(frames: UInt8Array, preprocessing: Preprocessing) -> FloatArray:
    """`(x / 255 - mean) / std` and the transpose, as in common scripts: uint8 `(N, H, W, C)` to float32 `(N, C, H, W)`.

    Computed in float32: uint8 divided by a Python number would give float64 and be three times slower.
    """
    mean, std = np.array(preprocessing.mean, np.float32), np.array(preprocessing.std, np.float32)
    normalized = (frames.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2))


def bake_preprocessing(model: Path, preprocessing: Preprocessing) -> Path:
    """The model with OpenVINO's own PrePostProcessor in front: takes uint8 `(N, H, W, C)`. Returns a new IR file."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(shared_core().read_model(model))
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(ov.Type.f32).mean([255 * v for v in preprocessing.mean]).scale(
        [255 * v for v in preprocessing.std]
    )
    path = model.with_name(f"{model.stem}-frames.xml")
    ov.save_model(steps.build(), path, compress_to_fp16=False)
    return path
