"""The audit of engine inspector records, in the form that NVIDIA documents; no such record was read from a GPU yet."""

import json
from pathlib import Path
from typing import Any

import pytest

from resnetrt.engine_record import EngineRecord
from resnetrt.export.audit import EngineAudit, Requirement, broken_requirements
from resnetrt.export.audit.audit import judge
from resnetrt.export.audit.layers import Evidence
from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.audit.tensorrt import executed, read_layers
from resnetrt.export.compilers.tensorrt.layers import EngineLayer, LayerTensor, layer_of_record
from resnetrt.runtime.backends.tensorrt_inspector import data_type

INT8 = "Thirty-two wide channel vectorized row major Int8 format."


def tensor(name: str, words: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": [8, 16, 16, 16], key: words}


def record(kind: str, words: str, onnx: str, weights: str = "", **more: Any) -> dict[str, Any]:
    """A layer that reads and writes `words` and runs the ONNX nodes named in `onnx`."""
    nodes = onnx.split()
    return {
        "Name": " + ".join(nodes) or "Reformatting CopyNode for Input Tensor 0 to stem",
        "LayerType": kind,
        "Inputs": [tensor("x", words)],
        "Outputs": [tensor("y", words)],
        **({"ParameterType": "Convolution", "Weights": {"Type": weights, "Count": 432}} if weights else {}),
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {name}]" for name in nodes),
        **more,
    }


@pytest.fixture
def source(tiny_fp32: Path) -> SourceGraph:
    return SourceGraph.of(tiny_fp32)


def audit(source: SourceGraph, precision: str, *records: dict[str, Any]) -> EngineAudit:
    layers = executed([layer_of_record(item) for item in records], source)
    record = EngineRecord(f"tensorrt-{precision}-sm86", "tensorrt", precision, "sm86")
    return judge(record, source, Evidence(layers, "engine inspector", complete=True))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Float", "fp32"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        (INT8, "int8"),
        ("Row major linear FP32", "fp32"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Row major linear UInt8 format", "uint8"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_words_of_the_inspector(words: str, expected: str):
    assert data_type(tensor("x", words)) == expected
    assert data_type(tensor("x", words, "Datatype") | {"Format/Datatype": ""}) == expected


def test_a_record_becomes_a_layer():
    layer = layer_of_record(record("CaskConvolution", INT8, "conv add relu", "Int8"))
    assert (layer.name, layer.type, layer.onnx) == ("conv + add + relu", "CaskConvolution", ("conv", "add", "relu"))
    assert layer.inputs == (LayerTensor("x", "int8", (8, 16, 16, 16)),)
    assert layer.constants == (LayerTensor("weights", "int8", (432,)),)
    assert layer.tactic == "sm80_xmma_fprop_implicit_gemm"
    assert EngineLayer.from_json(layer.to_json()) == layer


def test_a_bare_record_is_no_crash():
    assert layer_of_record({"Name": "x"}) == EngineLayer("x", "", (), (), (), ())


def test_an_int8_engine_that_is_one(source: SourceGraph):
    report = audit(
        source,
        "int8",
        record("Reformat", INT8, "", Metadata=""),
        record("CaskConvolution", INT8, "stem stem.relu", "Int8"),
        record("CaskConvolution", INT8, "conv add relu", "Int8"),
        record("CaskPooling", "Half", "pool"),
        record("CaskGemmConvolution", INT8, "fc", "Int8"),
    )
    assert report.share_by_precision == {"int8": 1.0}
    assert (report.unfused, report.islands, report.count("reformat")) == ((), (), 1)
    assert broken_requirements(report, [Requirement("int8", 0.95)]) == []


def test_an_int8_engine_that_runs_in_fp32_is_found(source: SourceGraph):
    report = audit(
        source,
        "int8",
        record("CaskConvolution", INT8, "stem stem.relu", "Int8"),
        record("CaskConvolution", "Row major linear FP32", "conv", "Float"),
        record("PointWiseV2", "Row major linear FP32", "add relu"),
        record("CaskGemmConvolution", INT8, "fc", "Int8"),
    )
    assert report.share_by_precision == {"fp32": 0.841913, "int8": 0.158087}
    assert [(item.node, item.layer) for item in report.unfused] == [("add", "add + relu"), ("relu", "add + relu")]
    (text,) = broken_requirements(report, [Requirement("int8", 0.95)])
    assert "found fp32 84.2%, int8 15.8%; first of 1 elsewhere: conv (fp32)" in text


def test_what_falls_back_from_the_dla_to_the_gpu_is_counted(source: SourceGraph, tmp_path: Path):
    half = "Sixteen wide channel vectorized row major FP16 format"
    records = [
        record("DLA", half, "stem stem.relu"),
        record("CaskConvolution", half, "conv add relu", "Half"),
        record("DLA", half, "pool fc"),
    ]
    about = EngineRecord("tensorrt-fp16-sm87", "tensorrt", "fp16", "sm87", options={"dla_core": 0})
    stored = {"source": "engine inspector", "layers": [layer_of_record(item).to_json() for item in records]}
    (tmp_path / f"{about.id}.layers.json").write_text(json.dumps(stored))
    (evidence,) = read_layers(tmp_path / f"{about.id}.engine", about, source)
    report = judge(about, source, evidence)
    assert report.share_by_precision == {"fp16": 0.158087, "fp16 on the GPU": 0.841913}
    assert [(item.node, item.precision) for item in report.islands] == [("conv", "fp16 on the GPU")]
    (text,) = broken_requirements(report)
    assert "fp16 on the GPU 84.2%" in text


def test_formats_that_the_inspector_withholds_are_no_pass(source: SourceGraph):
    words = "N/A due to dynamic shapes"
    report = audit(
        source,
        "fp16",
        record("CaskConvolution", words, "stem stem.relu"),
        record("CaskConvolution", words, "conv add relu"),
        record("CaskGemmConvolution", words, "fc"),
    )
    assert report.share_by_precision == {"unknown": 1.0}
    assert broken_requirements(report) != []
