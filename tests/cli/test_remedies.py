"""What a message says to do next is done, word by word, and helps."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from remedies import FILL, ROWS, STAGES, Row, words
from source_tree import sources

from resnetrt.bundle import CALIBRATE, COMPILE
from resnetrt.cli import run

_GPU = "needs a GPU"
_BY_HAND = "said of a file that was made or changed by hand; other rows follow the same command"
_SERVER = "a server says it; tests/runtime/serving starts servers with this option"
ELSEWHERE = {  # the advice, and why no row follows it
    "benchmarks/accuracy/outcomes.py: write one with: resnetrt evaluate": _SERVER,
    "benchmarks/accuracy/shadow_baseline.py: evaluate it again with --results": _SERVER,
    "benchmarks/cluster/pool.py: start one with: ray start --head": "tests/benchmarks/cluster starts clusters",
    "benchmarks/compare/bench.py: add --compare": "needs a second bench; other rows compare",
    "benchmarks/compare/bench.py: name one with --work": "tests/cli/test_bench.py",
    "benchmarks/compare/bench.py: try --depths": "docs/tutorials/depth-figure.md, which a test runs",
    "benchmarks/compare/more_runs.py: compare with runs that it stored: --compare": "needs an older resnetrt",
    "benchmarks/compare/records.py: finish it with --resume": "tests/cli/test_bench.py",
    "benchmarks/compare/records.py: evaluate --json": "a list of what is expected, no advice",
    "benchmarks/evaluate/run.py: find the block with: resnetrt verify": "docs/search.md, whose commands a test runs",
    "benchmarks/peers/study.py: name them with --networks": "not of the command line",
    "benchmarks/reports/conclusions.py: measure more with --runs": "a busy machine says DISTURBED instead",
    "benchmarks/verify/reference.py: name them with --weights": "of weights without a path; other rows name weights",
    "calibration/explain/suspects.py: resnetrt search": "docs/search.md, whose commands a test runs",
    "calibration/explain/suspects.py: try quantize --method": "a thing to try, no certain cure",
    "calibration/quantize/bake.py: leave --input": "the same command with less",
    "calibration_record.py: run again: resnetrt calibrate": _BY_HAND,
    "calibration_record.py: run: resnetrt calibrate": _BY_HAND,
    "cli/compile.py: compile: --import takes the plan of one variant: --precision fp16 or --variant": _GPU,
    "cli/compile.py: compile: --input goes with --precision": "no advice; that stands behind it, and a row follows it",
    "cli/compile.py: compile: expected one of --precision and --variant": "as the line before",
    "cli/deploy.py: leave out --precisions": "the same command with less",
    "cli/explaining.py: list them with --json": "every command takes --json; tests/cli/test_json_schemas.py",
    "cli/predict.py: give --camera": "needs a camera",
    "cli/predict.py: say how many with --frames": "needs a camera",
    "export/cast/fp8.py: run again: resnetrt calibrate": _BY_HAND,
    "export/compilers/openvino.py: try another --backend": "of what OpenVINO can't compile, which changes by version",
    "export/compilers/tensorrt/flavour.py: add --device": _GPU,
    "export/compilers/tensorrt/flavour.py: compile with --target": _GPU,
    "export/compilers/tensorrt/flavour.py: use --backend": _GPU,
    "export/compilers/tensorrt/log.py: leave that target out of --target": "another row leaves a target out",
    "export/compilers/tensorrt/refuse.py: use --backend": _GPU,
    "export/engines/compile.py: on a workstation run: resnetrt package": "said without onnx; tests/test_device_road.py",
    "export/packages/model_config.py: compile it with --profiles": _GPU,
    "export/variants/lint.py: choose another --opset": _BY_HAND,
    "runtime/backends/__init__.py: compile it again: resnetrt compile": _GPU,
    "runtime/predict/classes.py: resnetrt verify": "of an engine that is broken; tests/runtime/predict",
    "runtime/selftest.py: see which block diverges with: resnetrt verify": "docs/search.md, whose commands a test runs",
    "runtime/serving/repository.py: start the server with --model-control-mode": _SERVER,
    "runtime/shadow/check.py: give --no-shadow-scenes": _SERVER,
}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of each stage."""
    folder = tmp_path_factory.mktemp("stages")
    before = None
    for name, line in STAGES.items():
        if before:
            shutil.copytree(folder / before, folder / name)
        assert run(words(line, folder / name)) == 0
        before = name
    return folder


def commands_in(text: str) -> list[str]:
    """The whole commands that a message names, with their capitals filled in."""
    said = re.findall(r"resnetrt ([a-z]+(?: (?:--?[a-z][a-z-]*|[A-Z]+|[a-z0-9][\w,]*(?= --|$|[;,])))*)", text)
    return [re.sub(r"\b[A-Z]{4,}\b", lambda word: FILL[word[0]], line) for line in said]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.mistake.split()[0]}{row.says}"[:60])
def test_the_advice_helps(row: Row, stages: Path, tmp_path: Path, cli, monkeypatch):
    if "tensorrt_rtx" in row.mistake + str(row.before):
        pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "b"
    if row.stage in STAGES:
        shutil.copytree(stages / row.stage, bundle)
    row.prepare(bundle)
    result = cli(*words(row.mistake, bundle))
    text = " ".join((result.out + result.err).split())
    assert result.code == row.code, text
    assert row.says in text
    said = commands_in(text[text.index(row.says) :])
    assert said or "{said}" not in row.then
    lines = [
        line for item in row.then for line in (said if item == "{said}" else [item.replace("{same}", row.mistake)])
    ]
    for line in lines:
        result = cli(*words(line, bundle))
        assert result.code in (row.last if line is lines[-1] else (0,)), f"{line}\n{result.err}"
    assert row.says not in " ".join((result.out + result.err).split()), "it is said again"


ADVICE = re.compile(
    r"(?:\w+ )*(?:with: |run: |again: |say: )?resnetrt "
    r"(?:calibrate|compile|deploy|evaluate|export|package|quantize|search|verify)\b"
    r"|(?:(?<=[;,:] )|(?<=or )|^)"
    r"(?:add|ask|choose|compare|compile|evaluate|finish|give|leave|list|measure|name|say|start|store|take|try|use)\b"
    r"[^;,]* --[a-z][a-z-]*"
)


def messages(path: Path) -> Iterator[str]:
    """The strings of a file, docstrings and help apart; `{}` is a value, known constants are filled in."""
    skipped, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.keyword) and node.arg in ("help", "epilog"):
            skipped |= {id(inner) for inner in ast.walk(node.value)}
        elif isinstance(node, ast.JoinedStr) and id(node) not in skipped:
            skipped |= {id(inner) for inner in ast.walk(node)}
            yield "".join(map(_part, node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    name = ast.unparse(node)
    return {"{CALIBRATE}": CALIBRATE, "{COMPILE}": COMPILE}.get(name.removeprefix("f'").removesuffix("'"), "{}")


def test_every_advice_in_the_code_is_followed():
    said = [row.says for row in ROWS]
    left = set()
    for name, path in sources().items():
        for text in messages(path):
            if (advice := ADVICE.search(text)) and not any(_same(advice[0], line) for line in said):
                left.add(f"{name.removeprefix('resnetrt/')}: {advice[0]}")
    assert sorted(left) == sorted(ELSEWHERE)


def _same(advice: str, said: str) -> bool:
    pattern = re.escape(advice).replace(re.escape("{}"), ".+")
    return re.search(pattern, said) is not None or said.strip("; ") in advice
