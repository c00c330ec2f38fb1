import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle

from resnetrt.cli.serve import model_specs
from resnetrt.errors import UsageError

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


def test_names_and_engines_of_several_bundles(tiny):
    specs = model_specs((f"a={tiny}", str(tiny)), ("a=one", "two"))
    assert [(spec.name, spec.path, spec.engine) for spec in specs] == [("a", tiny, "one"), ("tiny", tiny, "two")]


def test_an_engine_of_an_unknown_model_suggests_the_right_one(tiny):
    with pytest.raises(UsageError, match="did you mean tiny"):
        model_specs((str(tiny),), ("tinny=x",))
