"""A bundle of a tiny residual network, made without torch; its golden logits come from a float64 numpy reference."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from resnetrt.bundle import Bundle, create_bundle
from resnetrt.export.variants.parity import run_onnx
from resnetrt.export.variants.store import enter_variant
from resnetrt.golden import FILE, Golden
from resnetrt.manifest import InputSpec, Manifest, VariantRecord
from resnetrt.preprocess import Preprocessing

CLASSES, CHANNELS, SIZE = 10, 16, 16
PREPROCESSING = Preprocessing("RGB", SIZE, (SIZE, SIZE), (0.5, 0.4, 0.3), (0.25, 0.5, 0.2))
OPSET = 18


class Reader(CalibrationDataReader):
    """Calibration images for onnxruntime.quantization."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([{"input": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random pictures, uint8 `(count, 16, 16, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8)


def weights() -> dict[str, np.ndarray]:
    """Weights by name, the same every time; logits reach about 10."""
    rng = np.random.default_rng(7)

    def normal(*shape: int, gain: float = 2.0) -> np.ndarray:
        return (rng.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))).astype(np.float32)

    return {
        "stem.w": normal(CHANNELS, 3, 3, 3),
        "stem.b": normal(CHANNELS, 1).ravel() * np.float32(0.1),
        "conv.w": normal(CHANNELS, CHANNELS, 3, 3),
        "conv.b": normal(CHANNELS, 1).ravel() * np.float32(0.1),
        "fc.w": normal(CLASSES, CHANNELS, gain=60.0),
        "fc.b": normal(CLASSES, 1).ravel(),
    }


def reference(images: np.ndarray) -> np.ndarray:
    """Logits of float32 `(N, C, H, W)` images, in float64 numpy."""
    w = {name: value.astype(np.float64) for name, value in weights().items()}
    stem = np.maximum(_conv(images.astype(np.float64), w["stem.w"], w["stem.b"]), 0)
    block = np.maximum(_conv(stem, w["conv.w"], w["conv.b"]) + stem, 0)
    return block.mean((2, 3)) @ w["fc.w"].T + w["fc.b"]


def _conv(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]


def write_onnx(path: Path, takes_frames: bool = False, batch: int | str = "batch", classes: int = CLASSES) -> None:
    """The network as ONNX; with `takes_frames` its input is uint8 `(N, H, W, C)` and preprocessing is inside."""
    arrays = weights()
    nodes = list(_preprocessing_nodes(arrays)) if takes_frames else []
    nodes += [
        helper.make_node("Conv", ["x" if takes_frames else "input", "stem.w", "stem.b"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"], "stem.relu"),
        helper.make_node("Conv", ["r", "conv.w", "conv.b"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Add", ["c", "r"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["t"], "relu"),
        helper.make_node("GlobalAveragePool", ["t"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["logits"], "fc", transB=1),
    ]
    dtype, shape = (
        (TensorProto.UINT8, [batch, SIZE, SIZE, 3]) if takes_frames else (TensorProto.FLOAT, [batch, 3, SIZE, SIZE])
    )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", dtype, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9), path)


def _preprocessing_nodes(arrays: dict[str, np.ndarray]) -> Sequence[onnx.NodeProto]:
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    arrays |= {"scale": 1 / (255 * std), "shift": -mean / std}
    return (
        helper.make_node("Cast", ["input"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], "transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "shift"], ["x"], "shift"),
    )


def write_int8(fp32: Path, path: Path) -> None:
    """Q/DQ in the dialect of the CPU, by ONNX Runtime's own quantizer."""
    quantize_static(
        str(fp32),
        str(path),
        Reader(PREPROCESSING.normalize(frames(64, seed=1))),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def make_bundle(path: Path) -> Bundle:
    """A bundle with 20 golden images and the variants fp32, fp32.frames, and int8 in every dialect (the same file)."""
    manifest = Manifest(
        name="tiny",
        model={"definition": "tiny"},
        weights={"source": "seed 7"},
        input=InputSpec("input", (3, SIZE, SIZE)),
        output="logits",
        classes=CLASSES,
        preprocessing=PREPROCESSING,
    )
    images = frames(20)
    with create_bundle(path, manifest) as editor:
        fp32 = editor.new_path("fp32.onnx")
        write_onnx(fp32)
        write_onnx(editor.new_path("fp32.frames.onnx"), takes_frames=True)
        write_int8(fp32, editor.new_path("int8.cpu.onnx"))
        for dialect in ("tensorrt", "onnxruntime"):
            editor.write(f"int8.{dialect}.onnx", (fp32.parent / "int8.cpu.onnx").read_bytes())
        logits = reference(PREPROCESSING.normalize(images)).astype(np.float32)
        editor.write(FILE, Golden(images, logits).to_bytes())
        variants = {
            "fp32": VariantRecord("fp32.onnx", "fp32"),
            "fp32.frames": VariantRecord("fp32.frames.onnx", "fp32", input="uint8"),
            "int8.cpu": VariantRecord("int8.cpu.onnx", "int8", dialect="cpu"),
            "int8.onnxruntime": VariantRecord("int8.onnxruntime.onnx", "int8", dialect="onnxruntime"),
            "int8.tensorrt": VariantRecord("int8.tensorrt.onnx", "int8", dialect="tensorrt"),
        }
        for name, record in variants.items():
            batch = images if record.input == "uint8" else PREPROCESSING.normalize(images)
            outputs = run_onnx(fp32.parent / record.file, batch, as_written=True)
            enter_variant(editor, name, record, outputs)
    return Bundle.open(path)


def plant_island(bundle: Bundle, variant: str, conv: str) -> None:
    """Give `conv` of an INT8 variant the float weight that its int8 weight stands for: equal numbers, but no INT8."""
    model = onnx.load(bundle.variant_file(variant))
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    producers = {node.output[0]: node for node in model.graph.node}
    node = next(node for node in model.graph.node if node.name == conv)
    quantized, scale, _ = (arrays[name] for name in producers[node.input[1]].input)
    weight = quantized.astype(np.float32) * scale.reshape(-1, 1, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(weight, "planted"))
    node.input[1] = "planted"
    with bundle.edit() as editor:
        editor.write(bundle.manifest.variants[variant].file, model.SerializeToString())


def flip_bits(bundle: Bundle, name: str, values: np.ndarray, mask: int, stride: int, last: bool = False) -> None:
    """Flip the bits of `mask` in every `stride`-th byte, from the fourth, of a weight stored in file `name`.

    It is the weight's first or `last` copy in the file. The file's hash is recorded anew, as a fault before hashing
    would have it.
    """
    blob = bytearray(bundle.file(name).read_bytes())
    start = blob.rfind(values.tobytes()) if last else blob.find(values.tobytes())
    assert start >= 0, f"{name} does not hold these weights as they are"
    for index in range(start + 3, start + values.nbytes, stride):
        blob[index] ^= mask
    with bundle.edit() as editor:
        editor.write(name, bytes(blob))


def quantized_weight(bundle: Bundle, name: str) -> np.ndarray:
    """An int8 weight of the variant int8.cpu."""
    model = onnx.load(bundle.variant_file("int8.cpu"))
    return next(numpy_helper.to_array(item) for item in model.graph.initializer if item.name == f"{name}_quantized")
