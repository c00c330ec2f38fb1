import subprocess
import sys
from pathlib import Path

import double_machine
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.cli.serve import model_specs
from resnetrt.errors import UsageError
from resnetrt.runtime.cuda.device import find_devices

FREE_PORTS = [word for kind in ("http", "grpc", "metrics") for word in (f"--{kind}-port", "0")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_bundle.make_bundle(tmp_path_factory.mktemp("serve") / "tiny.bundle").path


def serve(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    code = f"import sys; {before}; from resnetrt.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "package", ["starlette", "uvicorn", "grpc", "tritonclient", "grpc_health", "prometheus_client"]
)
def test_a_missing_package_is_one_line_that_names_the_extra(tiny, package):
    done = serve(str(tiny), before=f"sys.modules['{package}'] = None")
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert package in line
    assert "pip install 'resnetrt[serve]'" in line


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.bundle"], 4, "expected a directory, found nothing"),
        (["{tiny}", "{tiny}"], 2, "two bundles are named tiny"),
        (["{tiny}", "--engine", "other=x"], 2, "unknown model of --engine 'other'"),
        (["{tiny}", "--engine", "x", "--engine", "y"], 2, "--engine: expected one engine of all, found x and y"),
        (["{tiny}", "--on-drift", "unready"], 2, "--on-drift: nothing is checked without --shadow-rate"),
        (["{tiny}", "--no-shadow-copy"], 2, "--no-shadow-copy: nothing is checked without --shadow-rate"),
        (["{tiny}", "--shadow-interval", "0"], 2, "--shadow-interval: nothing is checked without --shadow-rate"),
        (["{tiny}", "--no-shadow-scenes"], 2, "--no-shadow-scenes: nothing is checked without --shadow-rate"),
        (["{tiny}", "--shadow-baseline", "r.st"], 2, "--shadow-baseline: nothing is checked without --shadow-rate"),
        (["{tiny}", "--shadow-rate", "1", "--shadow-interval", "-1"], 2, "--shadow-interval: expected seconds of at"),
        (["{tiny}", "--exit-timeout-secs", "inf"], 2, "inf is not in the range 0<=x<=86400"),
        (["{tiny}", "--max-body-mb", "2048"], 2, "2048 is not in the range 1<=x<=2047"),
        (["{tiny}", "--preferred-batch-size", "9"], 2, "preferred_batch_size: expected 1 to 8, found 9"),
        (
            ["{tiny}", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"],
            2,
            "has no engine; make one with: resnetrt compile",
        ),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(tiny, arguments, code, message):
    done = serve(*[text.format(tiny=tiny) for text in arguments], "--json", "--log-level", "error")
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("engine", "code", "message"),
    [
        (double_machine.ENGINE, 4, f"expected an engine that can run here, found none: {double_machine.ENGINE}: no us"),
        ("tensorrt-int8-sm86", 2, "tiny.bundle 'tensorrt-int8-sm86'; did you mean tensorrt-fp32-sm86?"),
    ],
)
def test_an_engine_that_can_not_run_here_is_one_line_before_any_port_is_opened(tmp_path, engine, code, message):
    if find_devices()[0]:
        pytest.skip("there is a device")
    bundle = tiny_bundle.make_bundle(tmp_path / "tiny.bundle")
    double_machine.add_engine(Bundle.open(bundle.path))
    done = serve(str(bundle.path), "--engine", engine, *FREE_PORTS)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert message in line


def test_names_and_engines_of_several_bundles(tiny):
    specs = model_specs((f"a={tiny}", str(tiny)), ("a=one", "two"))
    assert [(spec.name, spec.path, spec.engine) for spec in specs] == [("a", tiny, "one"), ("tiny", tiny, "two")]


def test_a_factory_s_name_is_served_as_part_of_an_address(tmp_path):
    bundle = tiny_bundle.make_bundle(tmp_path / "mine.bundle")
    with bundle.edit() as editor:
        editor.manifest.name = "mynet:resnet"
    assert [spec.name for spec in model_specs((str(bundle.path),), ())] == ["mynet_resnet"]


def test_a_path_that_is_there_is_no_name(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("lr=3.bundle"), Path("run/lr=0.1")):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(tiny)
        assert [(spec.name, spec.path) for spec in model_specs((str(path),), ())] == [("tiny", path)]
        assert [(spec.name, spec.path) for spec in model_specs((f"r50={path}",), ())] == [("r50", path)]


def test_an_engine_of_an_unknown_model_suggests_the_right_one(tiny):
    with pytest.raises(UsageError, match="did you mean tiny"):
        model_specs((str(tiny),), ("tinny=x",))
