"""The audit finds every convolution and matrix product, whatever the backend renamed, fused or split."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import network_files
import odd_networks
import pytest

from resnetrt.calibration.graph.dialects import dialect
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_model
from resnetrt.calibration_record import CalibrationRecord
from resnetrt.export.audit import EngineAudit, audit_file
from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.compilers import find_compiler
from resnetrt.manifest import canonical_json

BACKENDS = ("onnxruntime", "openvino")


def audit(variant: Path, backend: str, precision: str, target: str, folder: Path) -> EngineAudit:
    """Compile `variant` and audit the engine, without a bundle."""
    compiled = find_compiler(backend).compile_engine(variant, precision, target, {})
    engine = folder / f"e.{compiled.extension}"
    engine.write_bytes(compiled.blob)
    for ending, record in compiled.companions.items():
        (folder / f"e.{ending}").write_bytes(canonical_json(record))
    return audit_file(engine, compiled.record("e", backend, precision, target), variant)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("odd")
    return cache(lambda name: odd_networks.write_fp32(name, folder))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", odd_networks.NETWORKS)
def test_an_fp32_engine_is_fp32(name: str, backend: str, fp32: Callable[[str], Path], tmp_path: Path):
    assert audit(fp32(name), backend, "fp32", "cpu", tmp_path).share_by_precision == {"fp32": 1.0}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", odd_networks.NETWORKS)
def test_no_work_of_an_int8_engine_is_unknown(name: str, backend: str, fp32: Callable[[str], Path], tmp_path: Path):
    variant = tmp_path / "int8.onnx"
    network_files.write_int8(fp32(name), variant, find_compiler(backend).DIALECT)
    report = audit(variant, backend, "int8", "cpu", tmp_path)
    assert set(report.share_by_precision) <= {"fp32", "int8"}
    if backend == "openvino" and name not in ("mixer", "convnext", "transposed", "attention", "heads"):
        assert report.share_by_precision == {"int8": 1.0}


@pytest.mark.parametrize("name", ["pre_activation", "called_twice", "frozen_batch_norm", "transposed"])
def test_an_fp16_engine_of_tensorrt_rtx_is_fp16(name: str, fp32: Callable[[str], Path], tmp_path: Path):
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")
    variant = tmp_path / "fp16.onnx"
    network_files.write_half(fp32(name), variant)
    report = audit(variant, "tensorrt_rtx", "fp16", "sm86", tmp_path)
    # a transposed convolution stays FP32 in the file; RTX takes the casts around it into its FP16 kernel
    assert report.share_by_precision == {"fp16": 1.0}


def test_the_work_is_counted_for_one_image(fp32: Callable[[str], Path]):
    """By hand: outputs times the products in each."""
    macs = {node.name: node.macs for node in SourceGraph.of(fp32("mixer")).mac_nodes.values()}
    assert macs == {"stem": 24 * 4 * 4 * 3 * 16, "tokens": 24 * 16 * 16, "channels": 16 * 24 * 24, "fc": 24 * 10}
    transposed = {node.op: node.macs for node in SourceGraph.of(fp32("transposed")).mac_nodes.values()}
    assert transposed["ConvTranspose"] == 16 * 8 * 8 * 8 * 2 * 2  # inputs times the products of each
    grouped = [node.macs for node in SourceGraph.of(fp32("grouped")).mac_nodes.values()]
    assert grouped == [64 * 16 * 3 * 9, 64 * 16 * 4 * 9, 64 * 16 * 9, 16 * 10]
    calls = [node.macs for node in SourceGraph.of(fp32("called_twice")).mac_nodes.values()]
    assert calls == [64 * 16 * 3 * 9, *[64 * 16 * 16 * 9] * 4, 16 * 10]  # once for each call


@pytest.mark.parametrize("name", ["attention", "heads"])
def test_products_that_openvino_runs_inside_attention_are_its_own(
    name: str, fp32: Callable[[str], Path], tmp_path: Path
):
    """Two products in each of two layers, as many for any number of heads."""
    report = audit(fp32(name), "openvino", "fp32", "cpu", tmp_path)
    inside = [report.macs_by_layer.get(layer.name) for layer in report.evidence.layers if layer.op == "Subgraph"]
    assert inside == [2 * 64 * 64 * 16] * 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_float_matrix_products_of_an_int8_engine_are_counted(backend: str, fp32: Callable[[str], Path], tmp_path: Path):
    """Four tenths of the mixer's work, left in floats, are said to be floats."""
    variant, floats = tmp_path / "int8.onnx", ("tokens", "channels")
    record = CalibrationRecord("none", "", (), network_files.SameStatistics())
    options, rules = QuantizeOptions("minmax", bias_correction=False), dialect(find_compiler(backend).DIALECT)
    variant.write_bytes(quantize_model(fp32("mixer"), record, rules, options, frozenset(floats)))
    report = audit(variant, backend, "int8", "cpu", tmp_path)
    work = {node.name: node.macs for node in SourceGraph.of(variant).mac_nodes.values()}
    share = sum(work[name] for name in floats) / sum(work.values())
    assert {item.node for item in report.islands} >= set(floats)
    assert 0.4 < share <= report.share_by_precision["fp32"] + 1e-6
    if backend == "openvino":
        assert report.share_by_precision == {"fp32": round(share, 6), "int8": round(1 - share, 6)}
