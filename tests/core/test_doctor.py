"""A part that is missing, broken, crashing or hanging is a finding; nothing stops the doctor."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cuda_driver_stub import driver_folder
from planted_boards import ORIN, plant

from resnetrt import doctor
from resnetrt.doctor import PartState, diagnose, installed_distributions, probe
from resnetrt.parts import PARTS, RIVALS, Part

GIVEN = Part("thing", "a test", "doctor_thing", "pip install thing", ("thing",))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write the module `doctor_thing` where this process and its children find it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return (tmp_path / "doctor_thing.py").write_text


def test_a_missing_part_tells_how_to_get_it():
    state = probe(GIVEN, {})
    assert state == PartState("thing", "a test", "missing", None, "", "pip install thing")


def test_a_working_part_gives_version_and_facts(module):
    module("print('noise')\n__version__ = '1.2'\nanswer = 42")
    state = probe(replace(GIVEN, facts="detail = f'answer {m.answer}'"), {})
    assert (state.status, state.version, state.detail) == ("ok", "1.2", "answer 42")


def test_the_installed_version_counts_more_than_the_module_says(module):
    module("__version__ = '1.2-build-77'")
    assert probe(GIVEN, {"thing": "1.2"}).version == "1.2"


def test_of_two_distributions_in_one_folder_only_the_module_knows_which_it_is(module):
    module("__version__ = '2.0'")
    assert probe(replace(GIVEN, distributions=("a", "b")), {"a": "1.0", "b": "2.0"}).version == "2.0"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("raise OSError('libfoo.so.1: cannot open shared object file')", "OSError: libfoo.so.1: cannot open"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "crashes the process (signal 11)"),
        ("import os\nos._exit(3)", "ends the process (exit status 3)"),
        ("import sys\nsys.exit(0)", "ends the process (exit status 0)"),
        ("import time\ntime.sleep(60)", "did not end within 1 s"),
    ],
)
def test_a_broken_part_says_why_in_one_line(module, source: str, reason: str):
    module(source)
    state = probe(GIVEN, {"thing": "1.2"}, timeout_s=1 if "sleep" in source else 60)
    assert state.status == "broken"
    assert reason in state.detail
    assert "\n" not in state.detail


def test_a_distribution_whose_module_is_gone_is_broken():
    assert probe(GIVEN, {"thing": "1.2"}).status == "broken"


def test_a_crash_while_leaving_is_no_broken_import(module):
    module("import atexit, os\natexit.register(os.abort)\n__version__ = '1'")
    assert probe(GIVEN, {}).status == "ok"


def test_facts_that_fail_make_a_part_broken(module):
    module("")
    assert "AttributeError" in probe(replace(GIVEN, facts="m.missing()"), {}).detail


def test_a_file_of_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "doctor_thing.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert probe(GIVEN, {"thing": "1.2"}).status == "broken"


def test_both_onnxruntimes_are_a_problem_with_the_commands_that_mend_it():
    installed = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    (problem,) = diagnose((), installed).problems
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1" in problem.what
    assert "overwrite each other" in problem.what
    assert problem.fixes == (
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    )


@pytest.mark.parametrize("rivals", RIVALS, ids=lambda names: names[0])
def test_one_of_each_rivals_is_no_problem(rivals: tuple[str, ...]):
    assert all(diagnose((), {name: "1.0"}).problems == () for name in rivals[:1])
    assert len(diagnose((), dict.fromkeys(rivals, "1.0")).problems) == 1


def test_a_broken_part_is_a_problem(module):
    module("raise ImportError('libcuda.so.1: cannot open shared object file')")
    (problem,) = diagnose((GIVEN,), {"thing": "1.2"}).problems
    assert problem.what.startswith("thing 1.2 is installed and unusable: ImportError: libcuda.so.1")
    assert problem.fixes == ("install the NVIDIA driver: libcuda.so.1 is part of it",)


def test_a_broken_part_is_installed_again_without_its_dependencies(module):
    module("1 / 0")
    (problem,) = diagnose((GIVEN,), {"thing": "1.2"}).problems
    assert problem.fixes == ("pip install --force-reinstall --no-deps thing==1.2",)


def test_no_process_to_be_had_is_a_finding(module, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("Cannot allocate memory")

    module("")
    monkeypatch.setattr(subprocess, "run", refuse)
    assert "Cannot allocate memory" in probe(GIVEN, {}).detail


def test_every_part_is_probed_and_named_once():
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names)
    assert {"onnxruntime", "openvino", "tensorrt", "tensorrt-lean", "tensorrt-dispatch", "tensorrt-rtx"} <= set(names)
    assert {"cuda-bindings", "pycuda", "torch", "onnx", "nncf"} <= set(names)


def test_installed_names_are_normalised():
    installed = installed_distributions()
    assert installed["onnxruntime"]
    assert all(name == name.lower() and "_" not in name for name in installed)


def test_a_distribution_without_metadata_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "left_over-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "onnxruntime" in installed_distributions()


def test_the_probe_runs_the_interpreter_of_this_process(module):
    module("import sys\n__version__ = sys.prefix")
    assert probe(GIVEN, {}).version == sys.prefix
    assert doctor.IMPORT_TIMEOUT_S > 1


class TestOnADevice:
    """The files of a Jetson are planted; its driver is a stub."""

    PARTS = tuple(part for part in PARTS if part.name in {"tensorrt", "cuda-bindings"})

    def test_tensorrt_of_the_system_that_this_python_can_not_see(self, tmp_path: Path):
        diagnosis = diagnose(self.PARTS[:1], {}, plant(tmp_path, ORIN))
        if diagnosis.parts[0].status != "missing":
            pytest.skip("TensorRT is installed here")
        (problem,) = diagnosis.problems
        assert problem.what.startswith("tensorrt 10.3.0.30-1+cuda12.5 of the system (")
        assert "Python 3.10" in problem.what or "hidden from this venv" in problem.what
        assert "--system-site-packages" in problem.fixes[0]
        assert diagnosis.parts[0].install.startswith("sudo apt install python3-libnvinfer")

    def test_board_clocks_and_cuda_are_found(self, tmp_path: Path):
        diagnosis = diagnose((), {}, plant(tmp_path, ORIN))
        assert diagnosis.board is not None
        assert diagnosis.board.jetpack == "6.2.1+b38"
        assert (diagnosis.cuda_toolkit, list(diagnosis.thermals.clocks)) == ("12.6.11", ["cpu", "17000000.gpu"])

    def test_packages_for_a_later_cuda_than_the_driver_serves(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", driver_folder(tmp_path, 12060))
        installed = {"cuda-bindings": "13.5.0", "tensorrt-cu13": "11.4.0.106", "tensorrt-cu12": "11.4.0.106"}
        diagnosis = diagnose(self.PARTS, installed, tmp_path)
        assert [problem.what for problem in diagnosis.problems if "too old" in problem.what] == [
            "the NVIDIA driver is too old: it serves CUDA 12.6, cuda-bindings 13.5.0 is for CUDA 13.5",
            "the NVIDIA driver is too old: it serves CUDA 12.6, tensorrt-cu13 11.4.0.106 is for CUDA 13.0",
        ]
        assert "pip install 'resnetrt[gpu-cu12]'" in diagnosis.problems[-1].fixes
        assert {part.install for part in diagnosis.parts} == {"pip install 'resnetrt[gpu-cu12]'"}

    def test_a_later_minor_version_of_cuda_is_fine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("LD_LIBRARY_PATH", driver_folder(tmp_path, 13000))
        assert diagnose((), {"cuda-bindings": "13.5.0", "tensorrt-cu13": "11.4"}, tmp_path).problems == ()


def test_a_module_of_the_system_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "lib" / "python3" / "dist-packages"
    folder.mkdir(parents=True)
    (folder / "doctor_thing.py").write_text("__version__ = '10.3.0'")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    assert probe(GIVEN, {}).detail == f"of the system, {folder}"
