"""What users may import, by subpackage; the page about Python is executed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT
from test_readme import blocks

PUBLIC = {
    "resnetrt": ["__version__"],
    "resnetrt.runtime": ["LayerTime", "Prediction", "Session", "TensorSpec", "load"],
    "resnetrt.runtime.stream": [
        *("BatchOptions", "Batcher", "Closed", "DeadlineExceeded", "Dropped", "EngineFailed", "LatencyHistogram"),
        *("Overloaded", "Stream"),
    ],
    "resnetrt.models": [
        *("Cost", "DEFINITIONS", "Definition", "LayerCost", "ResNet", "ResNetConfig", "ResolvedModel", "WeightsSource"),
        *("cost", "definition", "load_weights", "resolve"),
    ],
    "resnetrt.export": [
        *("EngineAudit", "ExportRequest", "add_cast_variant", "audit_engine", "choose_variant", "compile_variant"),
        "export_bundle",
    ],
    "resnetrt.calibration": ["Dataset", "QuantizeOptions", "calibrate_bundle", "open_dataset", "quantize_variant"],
    "resnetrt.benchmarks": ["Budget", "GateRequest", "GateRun", "prepare_export", "run_gate"],
}
LAZY = ["resnetrt.export", "resnetrt.calibration", "resnetrt.benchmarks"]


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_are_these_and_each_says_what_it_is(package: str):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == PUBLIC[package]
    for name in PUBLIC[package]:
        assert getattr(module, name).__doc__


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_name_is_known_to_type_checkers_and_is_the_same(package: str):
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == PUBLIC[package]
    for name, place in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(str(place)), name)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.slow
def test_the_page_about_python_runs_as_it_stands(tmp_path: Path):
    (code,) = blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8"), "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("PASS", "INCONCLUSIVE", "FAIL")
    assert (tmp_path / "fashion.bundle" / "manifest.json").is_file()
