"""FP16, BF16, FP8 and INT8-over-FP16 variants: types, names, ranges, evidence."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny_bundle
from onnx import numpy_helper

from resnetrt.bundle import Bundle, sha256_of
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.calibration_record import FILE, recorded_amax
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.cast.cast import NOT_CHECKED, add_cast_variant
from resnetrt.export.cast.fit_scales import fp16_scale
from resnetrt.export.cast.half_types import HALF_TYPES
from resnetrt.export.cast.recipes import RECIPES, is_current
from resnetrt.export.cast.rounded import write_rounded
from resnetrt.export.engines.compile import choose_variant, compile_variant
from resnetrt.export.variants.parity import run_onnx
from resnetrt.parity import sqnr_db


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    """The tiny network's bundle; it has no calibration record."""
    return tiny_bundle.make_bundle(tmp_path / "tiny.bundle")


@pytest.fixture
def quantized(fashion_bundle: Bundle) -> Bundle:
    """The embedded network with a calibration record and INT8 in TensorRT's dialect."""
    quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
    return fashion_bundle


def scale_weights(bundle: Bundle, factors: dict[str, float]) -> None:
    """Multiply weights of fp32.onnx; its golden logits stay."""
    path = bundle.file("fp32.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factors[tensor.name], tensor.name))
    with bundle.edit() as editor:
        editor.write("fp32.onnx", model.SerializeToString())


def plant(bundle: Bundle, name: str, index: tuple[int, ...], value: float) -> None:
    model = onnx.load(bundle.file("fp32.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            array[index] = value
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    with bundle.edit() as editor:
        editor.write("fp32.onnx", model.SerializeToString())


def types(path: Path) -> dict[str, str]:
    """The type of the first output of every node."""
    model = ir.load(str(path))
    return {node.name or "": node.outputs[0].dtype.name for node in model.graph if node.outputs[0].dtype is not None}


class TestTypes:
    @pytest.mark.parametrize(("precision", "onnx_type"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
    def test_everything_is_cast_but_inputs_and_outputs(self, tiny: Bundle, precision: str, onnx_type: str):
        name, parity = add_cast_variant(tiny, precision)
        path = tiny.variant_file(name)
        onnx.checker.check_model(str(path), full_check=True)
        model = ir.load(str(path))
        assert [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)] == [ir.DataType.FLOAT] * 2
        assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["input", "logits"]
        assert {value.dtype.name for value in model.graph.initializers.values() if value.dtype} == {onnx_type}
        kinds = types(path)
        casts = [name for name in kinds if ".to_" in name]
        assert casts == [f"input.to_{precision}", "logits.to_fp32"]
        assert {kind for name, kind in kinds.items() if name != "logits.to_fp32"} == {onnx_type}
        assert model.opset_imports[""] >= HALF_TYPES[precision].least_opset
        assert parity.n == 20

    def test_names_of_nodes_and_weights_stay(self, tiny: Bundle):
        add_cast_variant(tiny, "fp16")
        before, after = ir.load(str(tiny.file("fp32.onnx"))), ir.load(str(tiny.file("fp16.onnx")))
        assert set(before.graph.initializers) == set(after.graph.initializers)
        assert {node.name for node in before.graph} <= {node.name for node in after.graph}

    def test_int8_over_fp16(self, quantized: Bundle):
        name, parity = add_cast_variant(quantized, "int8")
        record = quantized.manifest.variants[name]
        assert (name, record.precision, record.dialect) == ("int8.tensorrt.fp16", "int8", "tensorrt")
        model = ir.load(str(quantized.variant_file(name)))
        kinds = {value.dtype.name for value in model.graph.initializers.values() if value.dtype}
        assert kinds in ({"FLOAT16", "INT8", "INT64"}, {"FLOAT16", "INT8"})
        plain = quantized.manifest.variants["int8.tensorrt"].evidence["parity"]["sqnr_db"]
        assert parity.sqnr_db > plain - 2.5

    def test_fp8(self, quantized: Bundle):
        name, parity = add_cast_variant(quantized, "fp8")
        model = ir.load(str(quantized.variant_file(name)))
        amax = recorded_amax(quantized)
        assert amax is not None
        weights = [value for value in model.graph.initializers.values() if value.dtype == ir.DataType.FLOAT8E4M3FN]
        assert weights
        scale = model.graph.initializers["input.scale"].const_value
        assert scale is not None
        assert float(scale.numpy()) == pytest.approx(amax["input"] / 448, rel=2**-10)
        integers = ir.load(str(quantized.variant_file("int8.tensorrt")))
        pairs = [sum(node.op_type == "QuantizeLinear" for node in graph.graph) for graph in (model, integers)]
        assert pairs[0] == pairs[1]
        assert parity.sqnr_db > 15


class TestRange:
    def test_a_weight_beyond_fp16_keeps_its_layer_in_fp32(self, tiny: Bundle):
        scale_weights(tiny, {"stem.w": 1e6, "stem.b": 1e6, "conv.b": 1e6, "fc.w": 1e-6})
        with pytest.raises(
            CheckFailed,
            match=r"^variant fp16: .* NaN or infinite; without a calibration record .*resnetrt calibrate BUNDLE .*$",
        ):
            add_cast_variant(tiny, "fp16")  # without a record nobody knows that the activations overflow too
        assert "fp16" not in Bundle.open(tiny.path).manifest.variants

    def test_a_planted_weight_is_kept_and_reported(self, tiny: Bundle):
        plant(tiny, "conv.w", (3, 2, 1, 1), 1e5)
        plant(tiny, "stem.w", (2,), 0.0)  # its input channel is zero, so that the output stays as it was
        plant(tiny, "stem.b", (2,), 0.0)
        refresh_golden(tiny)
        name, _ = add_cast_variant(tiny, "fp16")
        evidence = tiny.manifest.variants[name].evidence
        assert list(evidence["kept_fp32"]) == ["conv"]
        assert "1e+05 is beyond 65504" in evidence["kept_fp32"]["conv"]
        kinds = types(tiny.variant_file(name))
        assert (kinds["conv"], kinds["stem"], kinds["add"]) == ("FLOAT", "FLOAT16", "FLOAT16")
        assert evidence["activations"] == NOT_CHECKED

    def test_channels_that_vanish_keep_their_layer_in_fp32(self, tiny: Bundle):
        scale_weights(tiny, {"conv.w": 1e-9, "conv.b": 1e-9})
        refresh_golden(tiny)
        name, _ = add_cast_variant(tiny, "fp16")
        kept = tiny.manifest.variants[name].evidence["kept_fp32"]
        assert "16 output channels vanish in fp16" in kept["conv"]

    def test_single_tiny_weights_are_no_loss(self, tiny: Bundle):
        plant(tiny, "conv.w", (3, 2, 1, 1), 1e-12)
        refresh_golden(tiny)
        name, _ = add_cast_variant(tiny, "fp16")
        assert tiny.manifest.variants[name].evidence["kept_fp32"] == {}

    def test_recorded_activations_beyond_fp16_keep_what_surrounds_them(self, fashion_bundle: Bundle):
        scale_weights(fashion_bundle, {"stem.conv.weight": 3e4, "stem.conv.bias": 3e4})
        refresh_golden(fashion_bundle)
        calibrate_bundle(fashion_bundle, "fashion_calib", 32)
        name, parity = add_cast_variant(fashion_bundle, "fp16")
        kept = fashion_bundle.manifest.variants[name].evidence["kept_fp32"]
        assert {"stem.conv", "relu", "stages.0.0.conv1.conv"} <= set(kept)
        assert "activation" in kept["relu"]
        assert np.isfinite(parity.max_abs)

    def test_scales_of_layers_that_stay_fp32_stay_too(self, fashion_bundle: Bundle):
        """A tensor far below FP16 between two layers; raised to what FP16 holds, its scale would leave 12 dB."""
        first, second = "stages.0.0.conv1.conv", "stages.0.0.conv2.conv"
        scale_weights(fashion_bundle, {f"{first}.weight": 1e-8, f"{first}.bias": 1e-8, f"{second}.weight": 1e8})
        refresh_golden(fashion_bundle)
        calibrate_bundle(fashion_bundle, "fashion_calib", 32)
        _, plain = quantize_variant(fashion_bundle, "tensorrt", QuantizeOptions())
        name, parity = add_cast_variant(fashion_bundle, "int8")
        assert {first, second} <= set(fashion_bundle.manifest.variants[name].evidence["kept_fp32"])
        assert parity.sqnr_db > plain.sqnr_db - 2.5

    def test_bf16_holds_what_fp16_does_not(self, tiny: Bundle):
        plant(tiny, "conv.w", (3, 2, 1, 1), 1e5)
        plant(tiny, "stem.w", (2,), 0.0)
        plant(tiny, "stem.b", (2,), 0.0)
        refresh_golden(tiny)
        name, _ = add_cast_variant(tiny, "bf16")
        assert tiny.manifest.variants[name].evidence["kept_fp32"] == {}


def refresh_golden(bundle: Bundle) -> None:
    """Take what fp32.onnx gives now for the eager model's logits."""
    from resnetrt.golden import FILE, Golden

    golden = Golden.of(bundle)
    images = bundle.manifest.preprocessing.normalize(golden.frames)
    logits = run_onnx(bundle.file("fp32.onnx"), images)
    with bundle.edit() as editor:
        editor.write(FILE, Golden(golden.frames, logits).to_bytes())


class TestRounded:
    def test_it_rounds_what_onnxruntime_leaves_out(self, tiny: Bundle, tmp_path: Path):
        for precision, low, high in (("fp16", 50, 80), ("bf16", 30, 60)):
            name, _ = add_cast_variant(tiny, precision)
            write_rounded(tiny.variant_file(name), tmp_path / "rounded.onnx")
            images = tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(8))
            outputs = run_onnx(tmp_path / "rounded.onnx", images)
            assert low < sqnr_db(tiny_bundle.reference(images), outputs) < high

    def test_it_sees_an_overflow_between_nodes(self, tiny: Bundle, tmp_path: Path):
        scale_weights(tiny, {"stem.w": 3e4, "stem.b": 3e4, "fc.w": 1e-5})
        refresh_golden(tiny)
        with pytest.raises(CheckFailed, match="NaN or infinite"):
            add_cast_variant(tiny, "fp16")


class TestEvidence:
    def test_what_was_checked_and_what_was_not(self, quantized: Bundle):
        for precision in RECIPES:
            name, parity = add_cast_variant(quantized, precision)
            evidence = Bundle.open(quantized.path).manifest.variants[name].evidence
            assert evidence["parity"] == parity.to_json()
            assert evidence["kept_fp32"] == {}
            assert evidence["activations"].startswith("checked: ")
            as_it_is = evidence["parity_onnxruntime"]
            assert as_it_is.startswith("not checked: ") if precision in ("bf16", "fp8") else as_it_is["n"] == 32

    def test_amax_is_what_the_record_says(self, quantized: Bundle):
        from resnetrt.calibration.quantize.quantize import load_record

        record = load_record(quantized)
        assert record.equalization
        assert recorded_amax(quantized) == record.amax_in_model()

    def test_a_record_of_another_model_is_refused(self, quantized: Bundle):
        scale_weights(quantized, {"fc.weight": 1.5})
        with pytest.raises(UsageError, match=r"record is of another fp32\.onnx; calibrate again"):
            add_cast_variant(quantized, "fp16")

    @pytest.mark.parametrize("precision", ["int8", "fp8"])
    def test_what_is_missing_is_named(self, fashion_bundle: Bundle, precision: str):
        with pytest.raises(UsageError, match=r"made from the variant int8\.tensorrt, which it lacks; .*quantize"):
            add_cast_variant(fashion_bundle, precision)

    def test_an_unknown_precision_is_refused(self, tiny: Bundle):
        with pytest.raises(UsageError, match="unknown precision to cast to 'fp15'; did you mean fp16"):
            add_cast_variant(tiny, "fp15")


class TestOnDemand:
    def test_the_cast_is_made_once(self, tiny: Bundle):
        assert not is_current(tiny, "fp16")
        assert choose_variant(tiny, "tensorrt_rtx", "fp16") == "fp16"
        before = sha256_of(tiny.variant_file("fp16"))
        stamp = tiny.path.stat().st_ino
        assert choose_variant(tiny, "tensorrt_rtx", "fp16") == "fp16"
        assert (sha256_of(tiny.variant_file("fp16")), tiny.path.stat().st_ino) == (before, stamp)

    def test_a_cast_by_another_record_is_made_again(self, fashion_bundle: Bundle):
        """As its evidence says: "not checked: ... make one with: resnetrt calibrate"."""
        blob = fashion_bundle.file(FILE).read_bytes()
        with fashion_bundle.edit() as editor:
            editor.remove(FILE)
        choose_variant(fashion_bundle, "openvino", "fp16")
        assert fashion_bundle.manifest.variants["fp16"].evidence["activations"] == NOT_CHECKED
        with fashion_bundle.edit() as editor:
            editor.write(FILE, blob)
        assert not is_current(fashion_bundle, "fp16")
        choose_variant(fashion_bundle, "openvino", "fp16")
        assert fashion_bundle.manifest.variants["fp16"].evidence["activations"].startswith("checked: ")
        assert is_current(fashion_bundle, "fp16")

    def test_a_cast_of_an_older_source_is_made_again(self, quantized: Bundle):
        assert choose_variant(quantized, "tensorrt", "int8") == "int8.tensorrt.fp16"
        before = sha256_of(quantized.variant_file("int8.tensorrt.fp16"))
        engine = compile_variant(quantized, "int8.tensorrt.fp16", "onnxruntime", min_share=0)
        quantize_variant(quantized, "tensorrt", QuantizeOptions())
        assert is_current(quantized, "int8")  # the same file again
        assert engine in quantized.manifest.engines
        quantize_variant(quantized, "tensorrt", QuantizeOptions("minmax"))
        assert not is_current(quantized, "int8")
        manifest = Bundle.open(quantized.path).manifest
        assert (set(manifest.variants), manifest.engines) == ({"fp32", "int8.tensorrt"}, {})
        assert choose_variant(quantized, "tensorrt", "int8") == "int8.tensorrt.fp16"
        assert sha256_of(quantized.variant_file("int8.tensorrt.fp16")) != before


class TestScales:
    def test_they_are_exact_in_fp16_and_nothing_clips(self):
        scales = np.geomspace(1e-9, 1e3, 500)
        scaled = fp16_scale(scales)
        assert (scaled == scaled.astype(np.float16)).all()
        assert (np.abs(scaled / scales - 1)[scales > 2**-14] <= 2**-11).all()
        assert (scaled >= scales)[scales < 2**-14].all()

    def test_those_beyond_fp16_stay(self):
        assert fp16_scale(np.array([1e6])) == 1e6
