"""Real builds with TensorRT-RTX, which needs no GPU for them."""

import hashlib
import signal
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import network_files
import onnx
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.compilers.engine import CompiledEngine
from resnetrt.export.compilers.tensorrt.flavour import resolve_rtx_target
from resnetrt.export.compilers.tensorrt.layers import EngineLayer
from resnetrt.export.engines.compile import compile_variant
from resnetrt.runtime.cuda.device import find_devices

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")
no_gpu = pytest.mark.skipif(bool(find_devices()[0]), reason="says what happens without a GPU; this machine has one")

# deep networks are exported for small images: the graph is the same and it is quicker
SIZES = {"resnet101": 64, "resnet152": 64}
FOUR = "sm80,sm86,sm89,sm120"
BITS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The ONNX file of a network at a precision, made once."""
    folder = tmp_path_factory.mktemp("networks")

    @cache
    def make(name: str, precision: str) -> Path:
        path = folder / f"{name}.{precision}.onnx"
        if precision == "fp32":
            return network_files.write_fp32(name, folder, SIZES.get(name, 224))
        if precision == "int8":
            network_files.write_int8(make(name, "fp32"), folder / f"{name}.int8.fp32.onnx")
            assert network_files.write_half(folder / f"{name}.int8.fp32.onnx", path) == {}
        else:
            assert network_files.write_half(make(name, "fp32"), path) == {}
        return path

    return make


def build(path: Path, precision: str, target: str | None = None, **options: object) -> CompiledEngine:
    return find_compiler("tensorrt_rtx").compile_engine(path, precision, resolve_rtx_target(target), options)


def layers(engine: CompiledEngine) -> list[EngineLayer]:
    return [EngineLayer.from_json(record) for record in engine.companions["layers.json"]["layers"]]


def header_targets(blob: bytes) -> list[str]:
    """The compute capabilities in the header of an RTX plan; undocumented, read from plans of 1.7.1."""
    assert blob[:4] == b"vtrt"
    assert struct.unpack_from("<Q", blob, 16)[0] == len(blob)
    mask = struct.unpack_from("<I", blob, 32)[0]
    return [name for bit, name in enumerate(BITS) if mask >> bit & 1]


DEPTHS = [
    18,
    pytest.param(34, marks=pytest.mark.slow),
    50,
    pytest.param(101, marks=pytest.mark.slow),
    pytest.param(152, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_resnets_build_for_four_generations_in_one_plan(
    network: Callable[[str, str], Path], depth: int, precision: str
):
    engine = build(network(f"resnet{depth}", precision), precision, FOUR, profiles="1:8:32")
    assert header_targets(engine.blob) == FOUR.split(",")
    facts = engine.details["tensorrt"]
    assert facts["compute_capabilities"] == [80, 86, 89, 120]
    convolutions = [kind for node, kind in facts["layer_precisions"].items() if "conv" in node]
    assert len(convolutions) >= depth - 2
    assert set(convolutions) == {precision}
    assert engine.inputs[0].shape[:2] == (None, 3)
    assert (engine.inputs[0].dtype, engine.outputs[0].dtype) == ("float32", "float32")
    done = {node for layer in layers(engine) for node in layer.onnx}
    assert {node for node in facts["layer_precisions"] if "conv" in node} <= done


@pytest.mark.parametrize("profile", [0, 1])
def test_fp16_resnet50_is_fused_and_computes_in_fp16(network: Callable[[str, str], Path], profile: int):
    path = network("resnet50", "fp16")
    operators = {node.name: node.op_type for node in onnx.load(path).graph.node}
    built = layers(build(path, "fp16", FOUR))
    chosen = [layer for layer in built if layer.type != "kgen" and layer.profile == profile]
    kernels = [layer for layer in chosen if "Conv" in {operators.get(node) for node in layer.onnx}]
    fused = {node for layer in kernels for node in layer.onnx}
    count = {kind: sum(operators.get(node) == kind for node in fused) for kind in ("Conv", "Relu", "Add")}
    assert count == {"Conv": 53, "Relu": 49, "Add": 16}
    assert len(kernels) == 53
    for layer in kernels:
        tensors = (*layer.inputs, *layer.constants[:1], *layer.outputs)
        assert {tensor.dtype for tensor in tensors} == {"fp16"}, layer.name


class TestBuild:
    def test_the_same_input_gives_the_same_bytes(self, tiny_fp16: Path):
        first, second = (build(tiny_fp16, "fp16", FOUR) for _ in range(2))
        assert hashlib.sha256(first.blob).hexdigest() == hashlib.sha256(second.blob).hexdigest()
        assert first == second

    def test_the_default_is_portable(self, tiny_fp16: Path):
        engine = build(tiny_fp16, "fp16")
        assert header_targets(engine.blob) == ["sm80", "sm86", "sm89", "sm120", "sm121"]
        assert engine.details["tensorrt"]["portable"]

    def test_turing_builds_fp16(self, tiny_fp16: Path):
        assert header_targets(build(tiny_fp16, "fp16", "sm75").blob) == ["sm75"]

    def test_several_profiles_and_options(self, tiny_fp16: Path):
        engine = build(
            tiny_fp16,
            "fp16",
            "sm86",
            profiles="1,8:16:32",
            workspace_mib=64,
            builder_optimization_level=2,
            tf32=True,
        )
        assert [profile["opt"] for profile in engine.options["profiles"]] == [[1, 3, 16, 16], [16, 3, 16, 16]]
        assert "TF32" in engine.details["tensorrt"]["flags"]
        assert engine.options["builder_optimization_level"] == 2

    def test_what_runs_can_be_captured(self, tiny_fp32: Path):
        assert "REQUIRE_USER_ALLOCATION" in build(tiny_fp32, "fp32").details["tensorrt"]["flags"]

    def test_no_timing_cache_may_be_asked_for(self, tiny_fp16: Path):
        assert build(tiny_fp16, "fp16", timing_cache="none").blob

    def test_tf32_is_off_unless_asked_for(self, tiny_fp32: Path):
        assert "TF32" not in build(tiny_fp32, "fp32").details["tensorrt"]["flags"]

    def test_a_named_profile_with_whole_shapes(self, tiny_fp16: Path):
        engine = build(tiny_fp16, "fp16", profiles="input=1x3x16x16:2x3x16x16:4x3x16x16")
        assert engine.options["profiles"] == [
            {"input": "input", "min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [4, 3, 16, 16]}
        ]

    def test_a_single_image_has_kernels_of_its_own(self, tiny_fp16: Path):
        engine = build(tiny_fp16, "fp16")
        assert [profile["opt"][0] for profile in engine.options["profiles"]] == [1, 8]
        first, second = ([layer for layer in layers(engine) if layer.profile == index] for index in (0, 1))
        assert len(first) + len(second) == len(layers(engine))
        for of_profile, batch in ((first, 1), (second, -1)):
            assert {"stem", "conv", "add", "relu", "fc"} <= {node for layer in of_profile for node in layer.onnx}
            assert {layer.inputs[0].shape[0] for layer in of_profile if layer.type == "correlation"} == {batch}

    def test_layers_say_what_they_fuse(self, tiny_fp16: Path):
        listed = layers(build(tiny_fp16, "fp16"))
        assert {"stem", "conv", "add", "relu", "fc"} <= {node for layer in listed for node in layer.onnx}


def test_fp8_below_89_is_refused_and_builds_above(fashion_bundle: Bundle):
    from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
    from resnetrt.export.cast.cast import add_cast_variant

    quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
    name, _ = add_cast_variant(fashion_bundle, "fp8")
    path = fashion_bundle.variant_file(name)
    with pytest.raises(UsageError, match=r"FP8 needs compute capability 8\.9 .*stem\.conv is fp8; leave sm86 out"):
        build(path, "fp8", "sm86,sm89")
    engine = build(path, "fp8", "sm89,sm120", profiles="1:8:32")
    assert "fp8" in {tensor.dtype for layer in layers(engine) for tensor in layer.inputs}


def test_an_interrupt_cancels_the_build(tiny_fp16: Path, monkeypatch: pytest.MonkeyPatch):
    from resnetrt.export.compilers.tensorrt import progress as tensorrt_progress

    real = tensorrt_progress._monitor

    def interrupted(trt: object, stopped: object, _show: object) -> object:
        return real(trt, stopped, lambda _phase, done, _total: signal.raise_signal(signal.SIGINT) if done else None)  # type: ignore[arg-type]

    monkeypatch.setattr(tensorrt_progress, "_monitor", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(tiny_fp16, "fp16")
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert build(tiny_fp16, "fp16").blob  # the next build is not affected


class TestBundle:
    @no_gpu
    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_parity_is_not_claimed(self, tmp_path: Path, precision: str):
        from resnetrt.export.engines.compile import choose_variant

        bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
        variant = choose_variant(bundle, "tensorrt_rtx", precision)
        name = compile_variant(bundle, variant, "tensorrt_rtx", "sm89,sm86")
        assert name == f"tensorrt_rtx-{precision}-sm86+sm89"
        reopened = Bundle.open(bundle.path)
        sidecar = reopened.read_json(f"engines/{name}.json")
        assert sidecar["parity"]["verdict"] == "not run"
        assert "no usable GPU" in sidecar["parity"]["reason"]
        expected = reopened.manifest.variants[variant].evidence.get("parity", "not checked")
        assert sidecar["parity"]["variant"] == expected
        assert reopened.read_engine(name).to_json() == sidecar
        assert sidecar["target"] == "sm86+sm89"
        assert sidecar["tools"]["tensorrt_rtx"] == sidecar["tensorrt"]["version"]
        assert sidecar["tensorrt"]["onnx_sha256"] == sidecar["variant_sha256"]
        assert reopened.read_json(f"engines/{name}.layers.json")["layers"]
