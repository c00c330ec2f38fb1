"""The audit of real TensorRT-RTX engines, which are built without a GPU."""

import json
import shutil
from pathlib import Path

import network_files
import pytest

from resnetrt.bundle import Bundle
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.cli import run
from resnetrt.engine_record import EngineRecord
from resnetrt.errors import BundleError
from resnetrt.export.audit import Requirement, audit_engine, broken_requirements
from resnetrt.export.audit.audit import judge
from resnetrt.export.audit.layers import Evidence
from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.audit.tensorrt import executed
from resnetrt.export.compilers import find_compiler
from resnetrt.export.compilers.tensorrt.layers import EngineLayer
from resnetrt.export.engines.compile import choose_variant, compile_variant

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'resnetrt[rtx]'")


@pytest.fixture(scope="module")
def fashion(exported_fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded network as FP16 and INT8 engines for sm86."""
    path = tmp_path_factory.mktemp("audit") / "fashion.bundle"
    shutil.copytree(exported_fashion, path)
    bundle = Bundle.open(path)
    quantize_variant(bundle, "tensorrt", QuantizeOptions("mse"))
    for precision in ("fp16", "int8"):
        compile_variant(bundle, choose_variant(bundle, "tensorrt_rtx", precision), "tensorrt_rtx", "sm86")
    return bundle


def test_fp16_fuses_everything_and_runs_no_fp32_convolution(fashion: Bundle):
    audit = audit_engine(fashion, "tensorrt_rtx-fp16-sm86")
    assert audit.share_by_precision == {"fp16": 1.0}
    assert (audit.operators["Conv"], audit.unfused, audit.islands) == (21, (), ())
    assert broken_requirements(audit, [Requirement("fp16", 1.0)]) == []
    assert audit.evidence.read_from.startswith("build log of tensorrt_rtx 1.")


def test_int8_runs_in_int8_and_what_rtx_leaves_apart_is_named(fashion: Bundle):
    audit = audit_engine(fashion, "tensorrt_rtx-int8-sm86")
    assert audit.share_by_precision == {"int8": 1.0}
    assert [item.op for item in audit.unfused].count("Relu") == 19
    assert [item.op for item in audit.unfused].count("Add") == 9
    assert all(item.layer for item in audit.unfused)


def test_an_engine_called_int8_that_is_fp16_exits_1(
    fashion: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(fashion.path, tmp_path / "b.bundle")
    bundle = Bundle.open(tmp_path / "b.bundle")
    layers = json.loads(bundle.file("engines/tensorrt_rtx-fp16-sm86.layers.json").read_bytes())
    with bundle.edit() as editor:
        editor.write_json("engines/tensorrt_rtx-int8-sm86.layers.json", layers)
    arguments = ["audit", str(bundle.path), "--engine", "tensorrt_rtx-int8-sm86", "--require", "fp16=0.9"]
    assert run(arguments) == 1
    assert "expected some of the multiply-accumulates in int8, found fp16 100.0%" in capsys.readouterr().err


def test_an_engine_without_its_layers_says_compile_again(fashion: Bundle, tmp_path: Path):
    shutil.copytree(fashion.path, tmp_path / "b.bundle")
    bundle = Bundle.open(tmp_path / "b.bundle")
    with bundle.edit() as editor:
        editor.remove("engines/tensorrt_rtx-fp16-sm86.layers.json")
    with pytest.raises(BundleError, match="no layers are stored beside it; compile it again"):
        audit_engine(bundle, "tensorrt_rtx-fp16-sm86")


@pytest.mark.slow
def test_fp16_resnet50_fuses_49_relus_and_16_adds(tmp_path: Path):
    fp32, half = network_files.write_fp32("resnet50", tmp_path), tmp_path / "fp16.onnx"
    assert network_files.write_half(fp32, half) == {}
    engine = find_compiler("tensorrt_rtx").compile_engine(half, "fp16", "sm80+sm86+sm89+sm120", {})
    layers = [EngineLayer.from_json(record) for record in engine.companions["layers.json"]["layers"]]
    source = SourceGraph.of(half)
    evidence = Evidence(executed(layers, source), "build log", complete=True)
    audit = judge(EngineRecord("e", "tensorrt_rtx", "fp16", "sm86"), source, evidence)
    followers = [item.op for node in source.mac_nodes.values() for item in node.followers]
    assert (followers.count("Relu"), followers.count("Add"), audit.operators) == (49, 16, {"Conv": 53, "Gemm": 1})
    assert audit.unfused == ()
    assert audit.share_by_precision == {"fp16": 1.0}
