"""Layers in their network beside the same layers alone."""

import json

import pytest
import tiny_bundle
from small_models import CONFIGS

from resnetrt.benchmarks.studies.layer_limits import ConvShape, conv_shapes, main, measure_alone
from resnetrt.benchmarks.verify.prepare import prepare_export
from resnetrt.calibration.observe.collect import calibrate_bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.export.engines.compile import compile_variant
from resnetrt.export.fp32.export import export_bundle
from resnetrt.models.cost import cost
from resnetrt.models.resnet import ResNet


def test_shapes_have_the_operations_that_cost_counts():
    module = ResNet(CONFIGS["bottleneck"])
    shapes = conv_shapes(module, (3, 32, 32))
    counted = {layer.name: layer for layer in cost(module, (3, 32, 32)).layers}
    assert set(shapes) == set(counted) - {"fc"}
    for name, shape in shapes.items():
        assert shape.operations(2) == 4 * counted[name].macs
        assert shape.weight_bytes == counted[name].parameters


def test_more_work_takes_longer_alone():
    small, large = (measure_alone(ConvShape(channels, channels, 28, 3, 1), 1, 1) for channels in (16, 256))
    for name in ("alone_us", "emptied_us", "product_us"):
        assert large[name] > small[name] > 0, name
    assert large["operations"] == 256 * small["operations"]


@pytest.mark.slow
def test_every_convolution_of_a_network_stands_beside_itself(tmp_path, capsys):
    request = prepare_export("fashion_resnet20", golden_count=9)
    bundle, _ = export_bundle(request, tmp_path / "fashion.bundle")
    calibrate_bundle(bundle, "fashion_calib", 16)
    engine = compile_variant(bundle, quantize_variant(bundle, "cpu", QuantizeOptions())[0], "openvino")
    assert main([str(bundle.path), "--engine", engine, "--threads", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    names = {row["layer"] for row in record["layers"]}
    assert len(names) == len(record["layers"]) >= 19
    assert record["layers_us"] >= sum(row["in_network_us"] for row in record["layers"]) > 0
    assert record["peak_gops"] > 0


def test_another_engine_is_refused(tmp_path, capsys):
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    compile_variant(bundle, "fp32", "openvino")
    assert main([str(bundle.path)]) == 2
    assert "expected one of OpenVINO in INT8" in capsys.readouterr().err
