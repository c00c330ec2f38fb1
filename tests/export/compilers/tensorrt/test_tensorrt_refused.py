"""What TensorRT can't build is refused in one clear line, and `--check` names the nodes without building."""

from pathlib import Path

import network_files
import numpy as np
import onnx
import pytest
import tiny_bundle
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

from resnetrt.errors import BackendMissing, BackendRefused, UsageError
from resnetrt.export.compilers import find_compiler
from resnetrt.export.compilers.engine import CompiledEngine
from resnetrt.export.compilers.tensorrt.flavour import FULL, RTX, resolve_rtx_target
from resnetrt.export.compilers.tensorrt.parse import check_model
from resnetrt.runtime.cuda.device import find_devices

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")
no_gpu = pytest.mark.skipif(bool(find_devices()[0]), reason="says what happens without a GPU; this machine has one")

FOUR = "sm80,sm86,sm89,sm120"


def build(path: Path, precision: str, target: str | None = None, **options: object) -> CompiledEngine:
    return find_compiler("tensorrt_rtx").compile_engine(path, precision, resolve_rtx_target(target), options)


def quantize(source: Path, name: str, **options: object) -> Path:
    """A Q/DQ or QOperator file as ONNX Runtime's quantizer makes it."""
    reader = tiny_bundle.Reader(tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(8)))
    quantize_static(str(source), str(source.with_name(name)), reader, per_channel=True, **options)
    return source.with_name(name)


class TestRefused:
    def check(self, path: Path, precision: str, message: str, target: str | None = None, **options: object) -> None:
        with pytest.raises((BackendRefused, UsageError), match=message) as caught:
            build(path, precision, target, **options)
        assert "\n" not in str(caught.value)
        assert "_src/" not in str(caught.value)

    def test_int32_bias(self, tiny_fp32: Path):
        path = quantize(tiny_fp32, "bias.onnx", quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8,
                        extra_options={"ActivationSymmetric": True})  # fmt: skip
        self.check(path, "int8", r"ONNX node \S+ \(DequantizeLinear\).*takes float biases, not int32.*dialect tensorrt")

    def test_asymmetric_zero_point(self, tiny_fp32: Path):
        path = quantize(tiny_fp32, "asymmetric.onnx", quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                        extra_options={"QuantizeBias": False})  # fmt: skip
        self.check(path, "int8", r"ONNX node \S+ \(QuantizeLinear\): .*symmetric activations with zero point 0")

    def test_qoperator(self, tiny_fp32: Path):
        path = quantize(tiny_fp32, "qoperator.onnx", quant_format=QuantFormat.QOperator)
        self.check(path, "int8", r"ONNX node \S+ \(Q\w+\): .*(not QOperator nodes|symmetric activations)")

    def test_int16_activations(self, tiny_fp32: Path):
        path = quantize(tiny_fp32, "int16.onnx", quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt16,
                        extra_options={"QuantizeBias": False})  # fmt: skip
        self.check(path, "int8", "parsing failed: .*")

    def test_profile_min_above_opt(self, tiny_fp16: Path):
        self.check(
            tiny_fp16, "fp16", "profile: expected min <= opt <= max, found min 8 opt 4 max 32", profiles="8:4:32"
        )

    def test_profile_of_an_unknown_input(self, tiny_fp16: Path):
        profiles = "inptu=1x3x16x16:2x3x16x16:4x3x16x16"
        self.check(
            tiny_fp16, "fp16", r"unknown input of .* in a profile 'inptu'; did you mean input\?", profiles=profiles
        )

    def test_profile_with_another_fixed_axis(self, tiny_fp16: Path):
        profiles = "input=1x3x24x24:2x3x24x24:4x3x24x24"
        self.check(
            tiny_fp16, "fp16", r"profile of input: expected input float32 \(N, 3, 16, 16\), found", profiles=profiles
        )

    @pytest.mark.parametrize("text", ["1:2", "a:b:c", "0:1:2", "input=", "1:8x3:32"])
    def test_senseless_profiles(self, tiny_fp16: Path, text: str):
        self.check(tiny_fp16, "fp16", "profile.*expected", profiles=text)

    @pytest.mark.parametrize("target", ["sm75", FOUR + ",sm75"])
    def test_turing_in_fp32(self, tiny_fp32: Path, target: str):
        self.check(tiny_fp32, "fp32", r"7\.5 \(Turing\) has no FP32.*layer stem is fp32; leave sm75 out", target)

    def test_turing_in_bf16(self, tiny_fp32: Path):
        network_files.write_half(tiny_fp32, tiny_fp32.with_name("bf16.onnx"), "bf16")
        self.check(tiny_fp32.with_name("bf16.onnx"), "bf16", "BF16 needs compute capability 8.0", "sm75")

    @pytest.mark.parametrize("target", ["sm90", "sm86,sm90"])
    def test_hopper(self, tiny_fp16: Path, target: str):
        self.check(tiny_fp16, "fp16", r"does not support sm90 \(H100, H200, GH200\).*use --backend tensorrt", target)

    def test_an_unknown_target(self, tiny_fp16: Path):
        self.check(tiny_fp16, "fp16", "unknown tensorrt_rtx target 'sm88'; did you mean", "sm88")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"version_compatible": True}, "needs the lean runtime, which TensorRT-RTX does not have"),
            ({"hardware_compatible": "ampere_plus"}, "takes several GPUs: --target sm80"),
            ({"hardware_compatible": "pascal"}, "unknown hardware_compatible level 'pascal'"),
            ({"dla_core": 0}, "TensorRT-RTX has no DLA"),
            ({"sparse_weights": True}, "builds the same engine with and without it"),
            ({"aux_streams": -1}, "aux_streams: expected at least 0, found -1"),
            ({"gpu_fallback": True}, "expected a dla_core with it"),
            ({"timing_cache": "cache.bin"}, "times no tactics"),
            ({"builder_optimization_level": 6}, "expected 0 to 5, found 6"),
            ({"workspace_mib": 0}, "workspace_mib: expected at least 1"),
            ({"int8_calibrator": 1}, "unknown option of tensorrt_rtx 'int8_calibrator'"),
            ({"profiles": ""}, "profiles: expected at least one"),
        ],
    )
    def test_options(self, tiny_fp16: Path, options: dict[str, object], message: str):
        self.check(tiny_fp16, "fp16", message, **options)

    def test_a_file_that_is_no_onnx(self, tmp_path: Path):
        (tmp_path / "fp16.onnx").write_bytes(b"no model")
        self.check(tmp_path / "fp16.onnx", "fp16", r"fp16\.onnx: parsing failed: ")

    @no_gpu
    def test_full_tensorrt_without_a_gpu(self, tiny_fp16: Path):
        with pytest.raises(BackendMissing, match=r"expected one that can be used, found none .*--backend tensorrt_rtx"):
            find_compiler("tensorrt").compile_engine(tiny_fp16, "fp16", "gpu", {})


class TestCheck:
    def test_a_good_file_has_no_problem(self, tiny_fp16: Path):
        assert check_model(tiny_fp16, RTX) == []

    def test_a_node_without_support_is_named(self, tmp_path: Path):
        nodes = [
            helper.make_node("Relu", ["x"], ["r"], "fine"),
            helper.make_node("DFT", ["r", "", "axis"], ["y"], "fourier"),
        ]
        shapes = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, size]) for name, size in (("x", 1), ("y", 2))
        ]
        axis = numpy_helper.from_array(np.array(1, np.int64), "axis")
        graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [axis])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "dft.onnx")
        problems = check_model(tmp_path / "dft.onnx", RTX)
        assert [(problem.node, problem.op) for problem in problems] == [("fourier", "DFT")]
        assert problems[0].reason

    @no_gpu
    def test_full_tensorrt_without_a_gpu(self, tiny_fp16: Path):
        with pytest.raises(BackendMissing):
            check_model(tiny_fp16, FULL)
