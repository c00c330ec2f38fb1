"""The audit: which precision the convolutions really run in, and what stands alone."""

import shutil
from pathlib import Path

import onnx
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.quantize.quantize import QuantizeOptions, quantize_variant
from resnetrt.engine_record import AuditSummary, EngineRecord
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.export.audit import ExecutedLayer, Requirement, audit_engine, broken_requirements
from resnetrt.export.audit.audit import READERS, judge
from resnetrt.export.audit.layers import Evidence
from resnetrt.export.audit.source import SourceGraph
from resnetrt.export.engines.compile import choose_variant, compile_variant

CPU_BACKENDS = ("onnxruntime", "openvino")
STEM, CONV, FC = 16 * 16 * 3 * 16 * 9, 16 * 16 * 16 * 16 * 9, 16 * 10  # multiply-accumulates of the tiny network
TOTAL = STEM + CONV + FC


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = tiny_bundle.make_bundle(tmp_path_factory.mktemp("audit") / "tiny.bundle")
    for backend in CPU_BACKENDS:
        for precision in ("fp32", "int8"):
            compile_variant(bundle, choose_variant(bundle, backend, precision), backend)
    return bundle


@pytest.fixture(scope="module")
def fashion(exported_fashion: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The embedded network in every INT8 dialect; each backend has its own and the one for TensorRT."""
    path = tmp_path_factory.mktemp("audit") / "fashion.bundle"
    shutil.copytree(exported_fashion, path)
    bundle = Bundle.open(path)
    for dialect in DIALECTS:
        quantize_variant(bundle, dialect, QuantizeOptions("mse"))
    for backend in CPU_BACKENDS:
        compile_variant(bundle, choose_variant(bundle, backend, "int8"), backend)
    return bundle


class TestEngines:
    @pytest.mark.parametrize("backend", CPU_BACKENDS)
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_an_honest_engine_runs_as_it_is_called(self, pristine: Bundle, backend: str, precision: str):
        audit = audit_engine(pristine, f"{backend}-{precision}-cpu")
        assert audit.share_by_precision == {precision: 1.0}
        assert (audit.operators, audit.islands) == ({"Conv": 2, "Gemm": 1}, ())
        assert broken_requirements(audit, [Requirement(precision, 1.0)]) == []
        assert sum(audit.macs_by_layer.values()) == TOTAL

    @pytest.mark.parametrize("backend", CPU_BACKENDS)
    def test_a_planted_fp32_island_is_found(self, pristine: Bundle, tmp_path: Path, backend: str):
        shutil.copytree(pristine.path, tmp_path / "tiny.bundle")
        bundle = Bundle.open(tmp_path / "tiny.bundle")
        variant = choose_variant(bundle, backend, "int8")
        tiny_bundle.plant_island(bundle, variant, "conv")
        before = dict(bundle.manifest.engines)
        with pytest.raises(CheckFailed, match=r"at least 50.0% of .* in int8, found fp32 84.2%.*--min-share 0"):
            compile_variant(bundle, variant, backend)
        assert bundle.manifest.engines == before
        name = compile_variant(bundle, variant, backend, min_share=0.0)
        stored = bundle.read_engine(name).audit
        assert isinstance(stored, AuditSummary)
        assert stored.own_share == round((STEM + FC) / TOTAL, 6)
        assert stored.elsewhere == {"conv": "fp32"}
        audit = audit_engine(bundle, name)
        assert stored.share_by_precision == audit.share_by_precision
        assert audit.share_by_precision == {"fp32": round(CONV / TOTAL, 6), "int8": round((STEM + FC) / TOTAL, 6)}
        assert [(item.node, item.precision) for item in audit.islands] == [("conv", "fp32")]
        (text,) = broken_requirements(audit, [Requirement("int8", 0.95)])
        assert text.startswith(
            f"engine {name}: expected at least 95.0% of the multiply-accumulates in int8, found fp32 84.2%"
        )
        assert text.endswith("first of 1 elsewhere: conv (fp32)")
        assert broken_requirements(audit, [Requirement("int8", 0.15)]) == []
        assert broken_requirements(audit) != []  # by default it must be at least half

    def test_the_tensorrt_dialect_runs_in_fp32_on_onnx_runtime(self, fashion: Bundle):
        audit = audit_engine(fashion, compile_variant(fashion, "int8.tensorrt", "onnxruntime", min_share=0))
        assert audit.share_by_precision == {"fp32": 1.0}
        assert audit.count("quantize") > 50
        assert broken_requirements(audit) != []
        assert broken_requirements(audit, [Requirement("fp32", 0.9)]) != []  # named INT8, so FP32 can't be asked of it

    @pytest.mark.parametrize("backend", CPU_BACKENDS)
    def test_the_dialects_run_in_int8_where_they_belong(self, fashion: Bundle, backend: str):
        audit = audit_engine(fashion, f"{backend}-int8-cpu")
        assert broken_requirements(audit, [Requirement("int8", 0.95)]) == []
        assert audit.operators == {"Conv": 21, "Gemm": 1}

    def test_adds_that_onnx_runtime_does_not_fuse_are_named(self, fashion: Bundle):
        audit = audit_engine(fashion, "onnxruntime-int8-cpu")
        assert [item.op for item in audit.unfused].count("Add") == 9
        assert audit_engine(fashion, "openvino-int8-cpu").unfused == ()

    def test_every_backend_that_compiles_on_the_cpu_has_a_reader(self):
        assert set(CPU_BACKENDS) <= set(READERS)


class TestJudge:
    """The verdict over layers that are written down here."""

    @pytest.fixture
    def source(self, pristine: Bundle) -> SourceGraph:
        return SourceGraph.of(pristine.variant_file("fp32"))

    def layers(self, *given: tuple[str, str, str]) -> tuple[ExecutedLayer, ...]:
        return tuple(
            ExecutedLayer(name, "c", precision, "compute", tuple(src.split())) for name, precision, src in given
        )

    def test_the_source_graph_knows_what_follows(self, source: SourceGraph):
        followers = {name: [item.name for item in node.followers] for name, node in source.mac_nodes.items()}
        assert followers == {"stem": ["stem.relu"], "conv": ["add", "relu"], "fc": []}

    def test_work_that_no_layer_runs_is_unknown_and_no_pass(self, source: SourceGraph):
        evidence = Evidence(self.layers(("a", "fp32", "stem stem.relu")), "test")
        audit = judge(EngineRecord("e", "b", "fp32", "cpu"), source, evidence)
        assert audit.share_by_precision == {"fp32": round(STEM / TOTAL, 6), "unknown": round((CONV + FC) / TOTAL, 6)}
        assert broken_requirements(audit) != []

    def test_a_gap_in_complete_evidence_is_unfused(self, source: SourceGraph):
        layers = self.layers(("a", "fp16", "stem"), ("b", "fp16", "conv add relu"))
        record = EngineRecord("e", "b", "fp16", "cpu")
        complete = judge(record, source, Evidence(layers, "test", complete=True))
        assert [(item.node, item.layer) for item in complete.unfused] == [("stem.relu", None)]
        assert judge(record, source, Evidence(layers, "test")).unfused == ()

    def test_a_layer_of_its_own_is_unfused(self, source: SourceGraph):
        layers = self.layers(("a", "fp16", "stem stem.relu"), ("b", "fp16", "conv"), ("c", "fp16", "add relu"))
        audit = judge(EngineRecord("e", "b", "fp16", "cpu"), source, Evidence(layers, "test"))
        assert [(item.conv, item.node, item.op, item.layer) for item in audit.unfused] == [
            ("conv", "add", "Add", "c"),
            ("conv", "relu", "Relu", "c"),
        ]

    def test_no_products_are_nothing_to_audit(self, tmp_path: Path):
        model = onnx.parser.parse_model(
            '<ir_version: 9, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
        )
        onnx.save(model, tmp_path / "none.onnx")
        with pytest.raises(CheckFailed, match="expected convolutions or matrix products, found none"):
            SourceGraph.of(tmp_path / "none.onnx")


@pytest.mark.parametrize("text", ["int8", "int8=", "int8=0", "int8=1.5", "int8=nan", "int8=x"])
def test_a_requirement_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(UsageError, match="expected PRECISION=SHARE"):
        Requirement.parse(text)


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="unknown precision 'int88'; did you mean int8"):
        Requirement.parse("int88=0.5")
