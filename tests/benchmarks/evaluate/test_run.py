"""The gate over whole bundles: planted faults and their hints, exit codes, files, a run that is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import tiny_bundle
from onnx import numpy_helper
from PIL import Image
from planted_rows import with_verdict

from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.benchmarks.accuracy.gate_rows import Look
from resnetrt.benchmarks.accuracy.outcomes import FileJournal, read_results
from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.evaluate.report import explain, to_junit, to_markdown
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import pixel_hash
from resnetrt.calibration_record import FILE, CalibrationRecord
from resnetrt.cli import run
from resnetrt.errors import DataError, UsageError
from resnetrt.export.engines.compile import compile_variant

N = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle with engines fp32 and int8, and labelled images of which the reference gets nine in ten right."""
    folder = tmp_path_factory.mktemp("gate")
    bundle = tiny_bundle.make_bundle(folder / "tiny.bundle")
    for variant in ("fp32", "int8.onnxruntime", "fp32.frames"):
        compile_variant(bundle, variant, "onnxruntime")
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (N * 3, 4, 4, 3)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
    logits = tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(x))
    x, logits = x[np.argsort(np.diff(np.sort(logits, 1)[:, -2:], axis=1).ravel())[-N:]], None  # clear cases
    x = x[rng.permutation(N)]
    y = tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(x)).argmax(1)
    y = np.where(rng.random(N) < 0.1, rng.integers(0, 10, N), y)
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


@pytest.fixture
def place(made, tmp_path):
    import shutil

    shutil.copytree(made / "tiny.bundle", tmp_path / "tiny.bundle")
    shutil.copy(made / "data.npz", tmp_path / "data.npz")
    return tmp_path


FP32, INT8, FRAMES = "onnxruntime-fp32-cpu", "onnxruntime-int8-cpu", "onnxruntime-fp32.frames-cpu"


def plant(place, engine, change):
    """Change initializers of an engine's file after it was checked."""
    bundle = Bundle.open(place / "tiny.bundle")
    name = bundle.manifest.engines[engine].file
    model = onnx.load(bundle.file(name))
    for item in model.graph.initializer:
        value = change(item.name, numpy_helper.to_array(item))
        if value is not None:
            item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), item.name))
    with bundle.edit() as editor:
        editor.write(name, model.SerializeToString())


def judged(place, engine, budget=None, **options):
    bundle = Bundle.open(place / "tiny.bundle")
    budget = budget or Budget(max_drop_pp=1.0)
    return run_gate(bundle, GateRequest(str(place / "data.npz"), (engine,), budget=budget, **options))


def row_of(place, engine, **options):
    return judged(place, engine, **options).record["engines"][0]


def test_fp32_against_itself_passes_without_a_flip(place):
    row = row_of(place, FP32)
    assert row["verdict"] == "PASS"
    assert (row["flips_percent"], row["lost"], row["gained"], row["flips"], row["hints"]) == (0, 0, 0, [], [])
    assert row["fp32_top1"] > 85


def shape(value):
    """A JSON value with types for numbers and text; of a list, the first item."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value).__name__


def test_the_record_has_the_fields_of_before(place, capsys):
    """Others read it: `record_shape.json` is of an earlier version."""
    stored = json.loads(Path(__file__).with_name("record_shape.json").read_bytes())
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--engine", FP32, "--json"]
    results = str(place / "r.safetensors")
    for name, more in (("no budget", ["--results", results]), ("baseline", ["--max-drop", "1", "--baseline", results])):
        assert run([*command, *more]) == 0
        record = json.loads(capsys.readouterr().out)
        assert shape(record.pop("conditions"))
        assert record.pop("schema_version") == 1
        assert shape(record) == stored[name]


def test_an_engine_that_takes_frames_is_judged_too(place):
    assert row_of(place, FRAMES)["verdict"] == "PASS"


def test_ten_images_are_inconclusive(place):
    row = row_of(place, FP32, samples=10)
    assert row["verdict"] == "INCONCLUSIVE"
    assert row["more_images"] > 100


@pytest.mark.parametrize(
    ("engine", "change", "hint"),
    [
        (FP32, lambda name, v: v[:, ::-1] if name == "stem.w" else None, "preprocessing: red and blue are swapped"),
        (FRAMES, lambda name, v: 0 * v if name == "shift" else None, "preprocessing: the mean is not subtracted"),
        (
            FRAMES,
            lambda name, v: 0 * v if name == "shift" else 0 * v + np.float32(1 / 255) if name == "scale" else None,
            "preprocessing: mean and standard deviation are missing",
        ),
        (INT8, lambda name, v: v / 40 if name == "r_scale" else None, r"bad scale: tensor r: \d+% .*too small"),
        (INT8, lambda name, v: v * 250 if name == "r_scale" else None, r"bad scale: tensor r: .*too large"),
        (INT8, lambda name, v: v * 9 if name == "conv.w_scale" else None, "bad scale: tensor conv.w: weights are off"),
        (FP32, lambda name, v: np.roll(v, 1, 0) if name.startswith("fc.") else None, "label map: reference and engine"),
    ],
)
def test_a_planted_fault_fails_and_is_named(place, engine, change, hint):
    import re

    plant(place, engine, change)
    row = row_of(place, engine)
    assert row["verdict"] == "FAIL"
    assert row["selftest"], "the self-test sees it too"
    assert re.match(hint, row["hints"][0]), row["hints"]


def respoil(place, spoil):
    stored = np.load(place / "data.npz")
    x, y = spoil(stored["x"], stored["y"])
    np.savez(place / "data.npz", x=x, y=y)


def test_a_label_map_that_spoils_the_reference_too_is_named(place):
    respoil(place, lambda x, y: (x, (y + 3) % 10))
    row = row_of(place, FP32)
    assert row["drop_pp"] == 0
    assert row["verdict"] == "FAIL"
    assert row["hints"][0].startswith("label map: labels and reference agree on")


def test_images_of_one_class_decide_nothing(place):
    def one_class(x, y):
        return x[y == 5], y[y == 5]

    respoil(place, one_class)
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--engine", FP32]
    assert run([*command, "--max-drop", "1"]) == 3
    row = row_of(place, FP32)
    assert (row["verdict"], row["hints"]) == ("INCONCLUSIVE", [])


def test_labels_that_mean_nothing_pass_no_engine(place):
    respoil(place, lambda x, y: (x, np.random.default_rng(0).permutation(y)))
    assert (row_of(place, FP32)["verdict"], row_of(place, FP32)["verdict_why"]) == ("INCONCLUSIVE", "data")


def test_a_reference_that_is_always_right_keeps_its_verdict(place):
    def right(x, y):
        return x, tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(x)).argmax(1)

    respoil(place, right)
    row = row_of(place, FP32)
    assert (row["fp32_top1"], row["verdict"], row["hints"]) == (100, "PASS", [])


def test_no_recipe_is_tried_where_none_could_be_far_better(place, monkeypatch):
    """For a large network the tries take minutes."""

    def tried(*_):
        raise AssertionError("a recipe was tried")

    monkeypatch.setattr("resnetrt.benchmarks.evaluate.run.reference_preprocessing", tried)
    respoil(place, lambda x, y: (x, tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(x)).argmax(1)))
    assert row_of(place, FP32)["verdict"] == "PASS"
    respoil(place, lambda x, y: (x[..., ::-1], y))
    with pytest.raises(AssertionError, match="a recipe was tried"):
        judged(place, FP32)


def test_a_recipe_that_spoils_the_reference_too_is_named(place):
    respoil(place, lambda x, y: (x[..., ::-1], y))
    row = row_of(place, FP32)
    assert row["verdict"] == "FAIL"
    assert row["hints"][0].startswith("preprocessing of the bundle: the FP32 reference itself is right on")
    assert "red and blue are swapped" in row["hints"][0]


def test_noise_in_an_engine_is_none_of_the_usual_mistakes(place):
    rng = np.random.default_rng(0)
    plant(place, FP32, lambda name, v: rng.permuted(v, axis=1) if name == "fc.w" else None)
    row = row_of(place, FP32)
    assert row["verdict"] == "FAIL"
    assert "no usual mistake explains it" in row["hints"][0]


def test_images_that_calibration_used_are_refused(place):
    bundle = Bundle.open(place / "tiny.bundle")
    used = tuple(pixel_hash(frame) for frame in np.load(place / "data.npz")["x"][:20])
    with bundle.edit() as editor:
        editor.write(FILE, CalibrationRecord("d", "0" * 64, used, {}).to_bytes())
    with pytest.raises(DataError, match="expected images that calibration has not used"):
        judged(place, FP32)
    row = row_of(place, FP32, allow_overlap=True)
    assert row["calibration_overlap"] == 20
    assert run(["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--max-drop", "1"]) == 4


@pytest.mark.parametrize(("budget", "code"), [("1", 0), ("0.001", 3)])
def test_the_command_writes_everything_and_exits_by_the_verdict(place, capsys, budget, code):
    files = ["--junit", "j.xml", "--markdown", "m.md", "--contact-sheet", "s.png", "--results", "r.safetensors"]
    files = [str(place / item) if "." in item else item for item in files]
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--engine", FP32]
    assert run([*command, "--max-drop", budget, "--json", *files]) == code
    record = json.loads(capsys.readouterr().out)
    row = record["engines"][0]
    stable = {"engine", "n", "fp32_top1", "top1", "drop_pp", "drop_ci_pp", "flips_percent", "sqnr_db", "verdict"}
    assert stable <= set(row)
    suite = ElementTree.fromstring((place / "j.xml").read_bytes()).find("testsuite")
    assert suite.attrib["errors"] == ("1" if code == 3 else "0")
    assert ("would decide anyhow" in (place / "m.md").read_text()) == (code == 3)
    with Image.open(place / "s.png") as sheet:
        assert sheet.size[0] > 300
    assert read_results(place / "r.safetensors").comparison.rows()[0]["top1"] == row["top1"]
    assert not (place / "r.safetensors.journal").exists()


def test_a_failing_engine_exits_one_and_says_why(place, capsys):
    plant(place, FP32, lambda name, v: v[:, ::-1] if name == "stem.w" else None)
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--engine", FP32]
    assert run([*command, "--min-relative", "0.99", "--junit", str(place / "j.xml")]) == 1
    assert "likely cause: preprocessing: red and blue are swapped" in capsys.readouterr().out
    failure = ElementTree.fromstring((place / "j.xml").read_bytes()).find("testsuite/testcase/failure")
    assert "outside the budget" in failure.attrib["message"]
    assert "red and blue" in failure.text


def test_a_verdict_that_no_statistics_gave_says_what_did(place, capsys):
    """Engine and reference agree on every image, so no bound of the drop is a reason to fail."""
    respoil(place, lambda x, y: (x, (y + 3) % 10))
    evaluation = judged(place, FP32)
    row = evaluation.record["engines"][0]
    assert (row["verdict"], row["verdict_why"], row["drop_pp"]) == ("FAIL", "reference", 0)
    failure = ElementTree.fromstring(to_junit(evaluation.evaluated)).find("testsuite/testcase/failure")
    for text in (failure.attrib["message"], to_markdown(evaluation.evaluated)):
        assert "the FP32 reference is itself wrong on these images for a known cause" in text
        assert "budget of" not in text


def test_an_engine_that_passes_but_for_its_self_test_says_so(place):
    plant(place, FP32, lambda name, v: v * np.float32(1.02) if name == "fc.w" else None)
    (row,) = judged(place, FP32).evaluated.engines
    assert (row.gate.accuracy.drop_pp, row.gate.verdict, row.gate.decision.why) == (0, "FAIL", "self-test")
    assert explain(row.gate, Budget(max_drop_pp=1.0)).startswith("the engine fails its self-test")


def reports(place):
    """The options that write a test report and a comment."""
    return ["--junit", str(place / "j.xml"), "--markdown", str(place / "m.md")]


def suite_of(place):
    return ElementTree.fromstring((place / "j.xml").read_bytes()).find("testsuite")


def test_two_releases(place, capsys):
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--engine", FP32]
    assert run([*command, "--max-drop", "1", "--results", str(place / "old.safetensors"), "--json"]) == 0
    (place / "old.json").write_text(capsys.readouterr().out)
    plant(place, FP32, lambda name, v: np.roll(v, 1, 0) if name.startswith("fc.") else None)
    for old in ("old.safetensors", "old.json"):
        assert run([*command, "--max-drop", "1", "--baseline", str(place / old), "--json", *reports(place)]) == 1
        row = json.loads(capsys.readouterr().out)["baseline"][0]
        assert row["verdict"] == "FAIL"
        assert row["paired"] == (old == "old.safetensors")
        suite = suite_of(place)
        assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "2")
        assert [case.attrib["name"] for case in suite.iter("testcase")] == [FP32, f"{FP32} since the baseline"]
        assert f"- **{FP32}** since the baseline (" in (place / "m.md").read_text()


def test_a_baseline_of_other_engines(place, capsys):
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--max-drop", "20"]
    old = str(place / "old.safetensors")
    assert run([*command, "--engine", FP32, "--engine", INT8, "--results", old]) == 0
    again = [*command, "--baseline", old, "--json", *reports(place)]
    assert run([*again, "--engine", FRAMES]) == 2, "one new engine: nothing to compare with"
    assert f"found {FP32}, {INT8}; if one was only renamed" in capsys.readouterr().err
    assert run([*again, "--engine", FRAMES, "--baseline-engine", f"{FRAMES}={FP32}"]) == 0
    record = json.loads(capsys.readouterr().out)
    pair, other = record["baseline"]
    assert (pair["engine"], pair["baseline_engine"], other["engine"], other["verdict"]) == (FRAMES, FP32, INT8, None)
    assert f"since the baseline ({FP32}, the same {N} images): PASS" in (place / "m.md").read_text()
    skipped = suite_of(place)
    assert (skipped.attrib["tests"], skipped.attrib["skipped"]) == ("3", "1")
    assert run(again) == 3
    assert f"**{FRAMES}** since the baseline: INCONCLUSIVE" in (place / "m.md").read_text()
    with Bundle.open(place / "tiny.bundle").edit() as editor:
        editor.drop_engine(INT8)
    assert run(again) == 1
    assert [case.attrib["name"] for case in suite_of(place).iter("testcase") if case.find("failure") is not None] == [
        f"{INT8} since the baseline"
    ]


def test_a_baseline_is_read_before_the_run(place, capsys, monkeypatch):
    from resnetrt.benchmarks.evaluate import run as gate_run

    monkeypatch.setattr(gate_run, "compare_accuracy", lambda *_: pytest.fail("the long run began"))
    command = ["evaluate", str(place / "tiny.bundle"), "--data", str(place / "data.npz"), "--max-drop", "1"]
    for name, why in (
        ("none.json", "no such file; write one with"),
        ("none.safetensors", "no such file; write one with"),
    ):
        assert run([*command, "--baseline", str(place / name)]) == 4
        line = capsys.readouterr().err
        assert line.startswith("resnetrt: --baseline")
        assert why in line
    (place / "zeros").write_bytes(bytes(100))
    assert run([*command, "--baseline", str(place / "zeros")]) == 4
    assert capsys.readouterr().err.startswith("resnetrt: --baseline: results ")
    (place / "old.json").write_text(json.dumps({"engines": [{"engine": "other", "n": 9, "top1": 50.0}]}))
    assert run([*command, "--baseline", str(place / "old.json")]) == 2
    assert "found other" in capsys.readouterr().err


def looked(place, capsys, samples, engine=FP32, **options):
    """The row, and what is said of it, of a run that is stored in the same results file as those before."""
    (row,) = judged(place, engine, samples=samples, results=place / "r.safetensors", **options).evaluated.engines
    return row.to_json(), explain(row.gate, Budget(max_drop_pp=1.0))


def test_the_results_file_remembers_looks(place, capsys):
    first, said = looked(place, capsys, 60)
    assert (first["look"], first["verdict"]) == (1, "INCONCLUSIVE")
    assert said.endswith("would decide anyhow, with a chance of 90 %")
    assert first["more_images_if_equal"] < first["more_images"]
    again, _ = looked(place, capsys, 60)
    assert again == first, "the same images tell the same"
    second, said = looked(place, capsys, 120)
    assert second["look"] == 2
    assert said.endswith("look 2 at this engine, for which 16.00% of the doubt is left")
    fresh = judged(place, FP32, samples=120).evaluated.engines[0].gate
    assert fresh.look == Look(None, 1)
    assert fresh.decision.bound_high < second["gate_bounds"][1], "a look costs"
    assert "store --results, so that another look" in explain(fresh, Budget(max_drop_pp=1.0))
    assert looked(place, capsys, 60)[0]["look"] == 1
    plant(place, FP32, lambda name, v: v * np.float32(1.000002) if name == "fc.w" else None)
    assert looked(place, capsys, 120)[0]["look"] == 1, "another engine"


def test_a_look_is_remembered_by_the_files_of_before(place, capsys):
    from resnetrt.benchmarks.accuracy.outcomes import write_results

    looked(place, capsys, 60)
    stored = read_results(place / "r.safetensors")
    about = {name: value for name, value in stored.about.items() if name != "looks"}
    write_results(place / "r.safetensors", stored.comparison, about)
    assert looked(place, capsys, 60)[0]["look"] == 1
    write_results(place / "r.safetensors", stored.comparison, about)
    assert looked(place, capsys, 120)[0]["look"] == 2


def test_a_results_file_that_is_none_is_not_overwritten(place, capsys):
    (place / "r.safetensors").write_bytes(b"something else")
    with pytest.raises(DataError, match="expected a results file of evaluate"):
        looked(place, capsys, 60)
    assert (place / "r.safetensors").read_bytes() == b"something else"


def test_one_failing_of_several_is_judged_by_its_share(place):
    """Exit code 1 is wrong with the chance that is promised, so each of three engines has a third of it."""
    request = GateRequest(str(place / "data.npz"), budget=Budget(max_drop_pp=1.0))
    bundle = Bundle.open(place / "tiny.bundle")
    several = {row.gate.engine: row.gate for row in run_gate(bundle, request).evaluated.engines}[INT8]
    alone = judged(place, INT8).evaluated.engines[0].gate
    assert (several.look, alone.look) == (Look(None, 3), Look(None, 1))
    assert several.decision.bound_low < alone.decision.bound_low
    assert several.decision.bound_high == alone.decision.bound_high, "all have to pass: nothing is shared"
    failing = with_verdict(several, "FAIL")
    assert "95 % sure (of all 3 verdicts together) that the drop" in explain(failing, Budget(1.0))


def test_plan_needs_no_bundle(capsys):
    assert run(["evaluate", "--plan", "--max-drop", "0.5", "--flip-rate", "0.03", "--json"]) == 0
    assert 9_000 < json.loads(capsys.readouterr().out)["plan"]["n"] < 12_000
    assert run(["evaluate", "--plan", "--max-drop", "0.5", "--engines", "6"]) == 0
    assert "for each of 6 engines, 98." in capsys.readouterr().out
    assert run(["evaluate", "--plan"]) == 2
    assert run(["evaluate", "--max-drop", "1"]) == 2


KILLED = """
import os, signal, sys
from resnetrt.benchmarks.accuracy import outcomes
from resnetrt.benchmarks.accuracy.request import GateRequest
from resnetrt.benchmarks.evaluate.run import run_gate
from resnetrt.bundle import Bundle
from resnetrt.runtime.batches import OnSession
from pathlib import Path
place, batches = Path(sys.argv[1]), int(sys.argv[2])
add, done = outcomes.FileJournal.add, []
def half(self, part):
    if len(done) < batches:
        done.append(1)
        return add(self, part)
    whole = self._path.read_bytes()
    add(self, part)
    more = self._path.read_bytes()[len(whole):]
    self._path.write_bytes(whole + more[: len(more) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
outcomes.FileJournal.add = half
request = GateRequest(str(place / "data.npz"), (sys.argv[3],), results=place / "r.safetensors")
run_gate(Bundle.open(place / "tiny.bundle"), request)
"""


def as_folder(place):
    """The images as PNG files of class folders, as many of each class as there are."""
    stored = np.load(place / "data.npz")
    for row, (image, label) in enumerate(zip(stored["x"], stored["y"], strict=True)):
        path = place / "data" / f"{label}" / f"{row:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return place / "data"


def killed(place, data):
    """A run that ends after three batches, and leaves its journal."""
    from resnetrt.benchmarks.evaluate import run as gate_run

    class Stopping(FileJournal):
        def add(self, part):
            super().add(part)
            if len(FileJournal(self._path, json.loads(self._read()[0])).finished()) == 3:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_run, "FileJournal", Stopping)
        with pytest.raises(KeyboardInterrupt):
            run_gate(Bundle.open(place / "tiny.bundle"), resumable(place, data))


def resumable(place, data):
    return GateRequest(str(data), (FP32,), results=place / "r.safetensors")


def test_a_run_goes_on_with_its_own_pixels_only(place):
    killed(place, place / "data.npz")
    respoil(place, lambda x, y: (np.concatenate([x[:-1], 255 - x[-1:]]), y))  # one of 400, not seen yet
    with pytest.raises(UsageError, match=r"found those of another, with other images_sha256; remove it, or choose"):
        run_gate(Bundle.open(place / "tiny.bundle"), resumable(place, place / "data.npz"))


def test_a_run_goes_on_with_its_own_files_only(place):
    data = as_folder(place)
    killed(place, data)
    changed = sorted(data.glob("5/*.png"))[0]
    kept = changed.read_bytes()
    Image.new("RGB", (16, 16), "red").save(changed)
    with pytest.raises(UsageError, match="with other images_sha256;"):
        run_gate(Bundle.open(place / "tiny.bundle"), resumable(place, data))
    changed.write_bytes(kept)
    whole = run_gate(Bundle.open(place / "tiny.bundle"), GateRequest(str(data), (FP32,)))
    resumed = run_gate(Bundle.open(place / "tiny.bundle"), resumable(place, data))
    assert [row | {"look": None} for row in resumed.record["engines"]] == whole.record["engines"]


@pytest.mark.parametrize("what", ["engine", "record", "version"])
def test_a_run_goes_on_with_its_own_engine_record_and_versions_only(place, what, monkeypatch):
    killed(place, place / "data.npz")
    bundle = Bundle.open(place / "tiny.bundle")
    if what == "engine":
        plant(place, FP32, lambda name, v: v * np.float32(1.000002) if name == "fc.w" else None)
    elif what == "record":
        with bundle.edit() as editor:
            editor.write(FILE, CalibrationRecord("d", "0" * 64, ("1" * 64,), {}).to_bytes())
    else:
        monkeypatch.setattr("resnetrt.benchmarks.evaluate.run.tool_versions", lambda: {"onnxruntime": "0"})
    named = {"engine": "engines", "record": "calibration_sha256", "version": "versions"}[what]
    with pytest.raises(UsageError, match=f"with other {named};"):
        run_gate(Bundle.open(place / "tiny.bundle"), resumable(place, place / "data.npz"))


@pytest.mark.parametrize("batches", [0, 3])
def test_a_killed_run_goes_on_where_it_stopped(place, batches, monkeypatch):
    from resnetrt.benchmarks.accuracy import request as request_module
    from resnetrt.runtime.batches import OnSession

    command = [sys.executable, "-c", KILLED, str(place), str(batches), INT8]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, check=False, env=environment, capture_output=True).returncode == -9
    assert (place / "r.safetensors.journal").exists()
    assert not (place / "r.safetensors").exists()
    seen = []

    def spy(session, output):
        infer = OnSession(session, output)
        return lambda images: seen.append(len(images)) or infer(images)

    monkeypatch.setattr(request_module, "OnSession", spy)
    request = GateRequest(str(place / "data.npz"), (INT8,), results=place / "r.safetensors")
    resumed = run_gate(Bundle.open(place / "tiny.bundle"), request)
    assert sum(seen) == N - 50 * batches
    whole = run_gate(Bundle.open(place / "tiny.bundle"), GateRequest(str(place / "data.npz"), (INT8,)))
    assert resumed.record["engines"][0] == whole.record["engines"][0] | {"look": 1}
    stored = read_results(Path(place / "r.safetensors")).comparison
    np.testing.assert_array_equal(stored.images, whole.comparison.images)
    assert not (place / "r.safetensors.journal").exists()
