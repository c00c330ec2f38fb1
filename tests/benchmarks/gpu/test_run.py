"""`make gpu-check`: a process for each check, whatever it does, and a record after each."""

import configparser
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_tree import ROOT

from resnetrt.benchmarks.gpu import run as gpu_run
from resnetrt.benchmarks.gpu.__main__ import link_package
from resnetrt.benchmarks.gpu.bundles import TRAINED, bundle_name
from resnetrt.benchmarks.gpu.catalog import GpuCheck, catalog
from resnetrt.benchmarks.gpu.needs import PACKAGES
from resnetrt.runtime.cuda import find_devices

CARRIED = {"network": TRAINED}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


def planted(function: str, *arguments: Any, **options: Any) -> GpuCheck:
    return GpuCheck(options.pop("name", function), f"planted_gpu_checks:{function}", arguments, **options)


def run(tmp_path: Path, checks: list[GpuCheck], *words: str) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "new" / "gpu.json"
    code = gpu_run.main([str(out), *words], checks)
    return code, json.loads(out.read_text())


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in record["checks"]}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestDevice:
    """The processes of the checks see one GPU: the variables are CUDA's, and nothing here can tell if it reads them."""

    @pytest.mark.parametrize(
        ("visible", "asked", "seen"),
        [
            (None, "1", "1"),
            ("4,6", "1", "6"),
            ("4, 6", "1", "6"),
            ("4,6", "GPU-14ab", "GPU-14ab"),
            ("GPU-0a,GPU-14abcd", "GPU-14ab", "GPU-14ab"),
            (None, "MIG-7c", "MIG-7c"),
        ],
    )
    def test_one_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible, asked: str, seen: str):
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setenv("RESNETRT_DEVICE", "1")
        code, record = run(tmp_path, [planted("which_device")], "--device", asked)
        assert (code, record["device"]) == (0, seen)
        told = {"CUDA_VISIBLE_DEVICES": seen, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "RESNETRT_DEVICE": None}
        assert by_name(record)["which_device"]["measured"] == told
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
        assert os.environ["RESNETRT_DEVICE"] == "1"

    @pytest.mark.parametrize(("visible", "asked"), [("4,6", "5"), ("4,6", "2"), ("GPU-0a,GPU-1b", "GPU-14"), ("", "0")])
    def test_one_that_this_process_may_not_use_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], visible, asked: str
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu_run.main([str(tmp_path / "gpu.json"), "--device", asked], [planted("which_device")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"resnetrt: --device: expected one of the GPUs of CUDA_VISIBLE_DEVICES={visible}, ")
        assert not (tmp_path / "gpu.json").exists()


class TestDeaths:
    """Whatever a check does, it is recorded, and the next one runs."""

    def test_a_segfault(self, tmp_path: Path):
        code, record = run(tmp_path, [planted("segfault"), planted("fine", 1)])
        checks = by_name(record)
        assert code == 1
        assert record["complete"]
        assert (checks["segfault"]["status"], checks["segfault"]["reason"]) == (
            "crashed",
            "its process died of SIGSEGV",
        )
        assert "about to read address 0" in checks["segfault"]["last_lines"]
        assert any("in segfault" in line for line in checks["segfault"]["last_lines"])  # of faulthandler
        assert checks["fine"]["status"] == "passed"
        assert checks["fine"]["measured"] == {"arguments": ["1"]}
        assert record["counts"] == {"passed": 1, "failed": 0, "crashed": 1, "hung": 0, "skipped": 0}

    def test_a_hang_is_killed_with_all_that_it_started(self, tmp_path: Path):
        started = time.monotonic()
        code, record = run(
            tmp_path, [planted("hang", str(tmp_path / "pid"), limit_s=4), planted("fine"), planted("fine", name="two")]
        )
        checks = by_name(record)
        assert code == 1
        assert (checks["hang"]["status"], checks["hang"]["reason"]) == ("hung", "it was killed after its limit of 4 s")
        assert any("in hang" in line for line in checks["hang"]["last_lines"])  # where it hung
        assert checks["fine"]["status"] == checks["two"]["status"] == "passed"
        assert not is_running(int((tmp_path / "pid").read_text()))
        assert time.monotonic() - started < 300  # of the 600 that it wanted

    @pytest.mark.parametrize(
        ("check", "reason"),
        [
            (planted("leave"), "its process ended with exit code 0 before the check was done"),
            (planted("leave_with", 7), "its process ended with exit code 7"),
        ],
    )
    def test_leaving_is_no_pass(self, tmp_path: Path, check: GpuCheck, reason: str):
        code, record = run(tmp_path, [check])
        assert code == 1
        assert (record["checks"][0]["status"], record["checks"][0]["reason"]) == ("crashed", reason)

    def test_a_death_after_the_check_is_no_pass(self, tmp_path: Path):
        code, record = run(tmp_path, [planted("abort_at_exit")])
        check = record["checks"][0]
        assert code == 1
        assert (check["status"], check["reason"]) == ("crashed", "it passed, then its process died of SIGABRT")
        assert check["measured"] == {"value": 1}

    def test_what_is_missing_skips_and_what_is_wrong_fails(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        code, record = run(tmp_path, [planted("fail"), planted("missing")])
        checks = by_name(record)
        assert code == 1
        assert (checks["fail"]["status"], checks["fail"]["reason"]) == ("failed", "CheckFailed: planted fault")
        assert any("in fail" in line for line in checks["fail"]["last_lines"])
        assert (checks["missing"]["status"], checks["missing"]["reason"]) == ("skipped", "planted gap")
        assert "failed  fail: CheckFailed: planted fault\n" in capsys.readouterr().out

    def test_only_missing_parts_are_no_failure(self, tmp_path: Path):
        assert run(tmp_path, [planted("missing")])[0] == 0


class TestRecord:
    def test_it_is_on_disk_before_the_next_check(self, tmp_path: Path):
        reader = planted("read_record", str(tmp_path / "new" / "gpu.json"))
        _, record = run(tmp_path, [planted("fine"), planted("fail"), reader])
        assert by_name(record)["read_record"]["measured"] == {"complete": False, "names": ["fine", "fail"]}
        assert record["complete"]
        assert record["schema_version"] == 2
        assert record["conditions"]["cpu"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_end_of_the_borrowed_time_keeps_it(self, tmp_path: Path, number: signal.Signals):
        out, pid = tmp_path / "gpu.json", tmp_path / "pid"
        code = (
            "import sys; from resnetrt.benchmarks.gpu.run import main; from resnetrt.benchmarks.gpu.catalog import "
            f"GpuCheck as C; sys.exit(main([{str(out)!r}], [C('fine', 'planted_gpu_checks:fine'), "
            f"C('hang', 'planted_gpu_checks:hang', ({str(pid)!r},)), C('late', 'planted_gpu_checks:fine')]))"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        while not (pid.exists() and pid.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        record = json.loads(out.read_text())
        assert process.returncode == 130
        assert "interrupted" in told
        assert not record["complete"]
        assert [check["name"] for check in record["checks"]] == ["fine"]
        assert not is_running(int(pid.read_text()))


class TestTime:
    def test_what_no_longer_fits_is_skipped_with_the_reason(self, tmp_path: Path):
        code, record = run(tmp_path, [planted("fine")], "--minutes", "0.01")
        assert code == 0
        assert record["checks"][0]["status"] == "skipped"
        assert "no time left of 0.01 minutes" in record["checks"][0]["reason"]

    def test_a_check_that_the_end_cuts_off_did_not_hang(self, tmp_path: Path):
        _, record = run(tmp_path, [planted("hang", str(tmp_path / "pid"), limit_s=90)], "--minutes", "0.12")
        assert record["checks"][0]["status"] == "skipped"
        assert re.search(r"killed after \d s of at most 90 s", record["checks"][0]["reason"])


class TestBundles:
    def test_nothing_is_exported_for_a_check_that_can_not_run(self, tmp_path: Path):
        if find_devices()[0]:
            pytest.skip("there is a device")
        _, record = run(tmp_path, [planted("fine", needs=("gpu",), **CARRIED)])
        assert [(check["name"], check["status"]) for check in record["checks"]] == [("fine", "skipped")]
        assert record["checks"][0]["reason"].startswith("no GPU: ")

    def test_a_network_is_exported_once_and_without_it_its_checks_are_skipped(self, tmp_path: Path):
        checks = [planted("fine", name=name, network="no-such-network") for name in ("one", "two")]
        code, record = run(tmp_path, [*checks, planted("fine")])
        assert code == 1
        assert [check["name"] for check in record["checks"]] == ["export no-such-network", "one", "two", "fine"]
        assert [check["status"] for check in record["checks"]] == ["failed", "skipped", "skipped", "passed"]
        assert "export no-such-network: failed: UsageError" in record["checks"][1]["reason"]

    def test_a_carried_bundle_is_copied_for_each_check(self, tmp_path: Path):
        carried = tmp_path / "carried"
        (carried / bundle_name(TRAINED)).mkdir(parents=True)
        (carried / bundle_name(TRAINED) / "manifest.json").write_text("{}")
        checks = [planted("names_in", name=name, **CARRIED) for name in ("one", "two")]
        _, record = run(tmp_path, checks, "--bundle", str(carried))
        assert [check["name"] for check in record["checks"]] == ["one", "two"]
        assert {tuple(check["measured"]["names"]) for check in record["checks"]} == {("manifest.json", "spoiled")}
        assert [entry.name for entry in (carried / bundle_name(TRAINED)).iterdir()] == ["manifest.json"]


class TestChoice:
    def test_without_a_gpu_everything_is_skipped_with_a_reason(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        if find_devices()[0]:
            pytest.skip("there is a device")
        assert gpu_run.main([str(tmp_path / "gpu.json")]) == 0
        record = json.loads((tmp_path / "gpu.json").read_text())
        assert record["conditions"]["gpu"]["devices"] == []
        assert [check["name"] for check in record["checks"]] == [check.name for check in catalog()]
        assert {check["status"] for check in record["checks"]} == {"skipped"}
        assert all(check["reason"] and "\n" not in check["reason"] for check in record["checks"])
        assert "missing" in record["here"]["gpu"]
        assert f"{len(record['checks'])} skipped" in capsys.readouterr().out

    def test_some(self, tmp_path: Path):
        checks = [planted("fine", name=name) for name in ("copies in", "copies out", "graphs")]
        assert [*by_name(run(tmp_path, checks, "--only", "copies")[1])] == ["copies in", "copies out"]
        assert [*by_name(run(tmp_path, checks, "--only", "*s", "--only", "out")[1])] == ["copies out", "graphs"]

    def test_an_unknown_one_is_wrong_usage(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert gpu_run.main([str(tmp_path / "gpu.json"), "--only", "graphz"], [planted("fine", name="graphs")]) == 2
        assert capsys.readouterr().err == "resnetrt: unknown check 'graphz'; did you mean graphs?\n"
        assert not (tmp_path / "gpu.json").exists()

    def test_a_carried_folder_that_is_not_there_is_wrong_usage(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        words = [str(tmp_path / "gpu.json"), "--bundle", str(tmp_path / "nothing")]
        assert gpu_run.main(words, [planted("fine")]) == 2
        assert "--bundle: expected a folder that --prepare made, found " in capsys.readouterr().err

    def test_the_list_says_what_would_be_skipped_and_runs_nothing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        checks = [planted("segfault"), planted("fine", needs=("tensorrt_lean",), limit_s=7)]
        assert gpu_run.main([str(tmp_path / "gpu.json"), "--list"], checks) == 0
        assert "  60 s  segfault\n   7 s  fine: would be skipped: " in capsys.readouterr().out
        assert not (tmp_path / "gpu.json").exists()

    def test_the_order_serves_machines_with_full_tensorrt_and_without(self):
        """Where the borrowed time ends early, the most telling checks are done."""

        def begins(needs: set[str]) -> list[str]:
            left = [check.name for check in catalog() if needs.isdisjoint(check.needs)]
            return list(dict.fromkeys(name.partition(": ")[0] for name in left))

        full = ["cuda-bindings", "tensorrt", "runner", "tensorrt_lean", "tensorrt_rtx", "onnxruntime cuda"]
        assert begins(set())[:6] == full
        # an H100 or H200: TensorRT-RTX does not run there
        assert begins({"tensorrt", "tensorrt_rtx"})[:4] == [
            "cuda-bindings",
            "runner",
            "tensorrt_lean",
            "onnxruntime cuda",
        ]
        names = [check.name for check in catalog()]
        runner = [name for name in names if name.startswith("runner: ")]
        assert runner[0] == "runner: 32 batch sizes"
        assert runner[-3:] == ["runner: out of memory", "runner: fork", "runner: sticky error"]
        assert names[-1] == "tensorrt_rtx: resnet101 fp16 latency"  # the slowest networks come last

    def test_every_check_exists_and_its_needs_can_be_asked(self):
        import pkgutil

        from resnetrt.benchmarks.gpu.needs import PROBES

        names = [check.name for check in catalog()]
        assert len(set(names)) == len(names)
        for check in catalog():
            assert callable(pkgutil.resolve_name(check.function))
            assert set(check.needs) <= PROBES.keys()
            assert check.needs[0] == "gpu"
            assert all(callable(pkgutil.resolve_name(name)) for name in check.given[:1])


def test_a_library_that_crashes_at_its_import_is_missing_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "tensorrt_lean.py").write_text("import ctypes\nctypes.string_at(0)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'tests'}")
    _, record = run(tmp_path, [planted("fine", needs=("tensorrt_lean",)), planted("fine", name="next")])
    assert by_name(record)["fine"]["reason"] == "tensorrt_lean can't be asked for: its process died of SIGSEGV"
    assert by_name(record)["next"]["status"] == "passed"


def test_it_runs_from_a_source_tree_that_is_not_installed(tmp_path: Path):
    """Without site-packages and so without the installed package; numpy's own folder stands for a bare machine."""
    numpy_only = tmp_path / "numpy-only"
    numpy_only.mkdir()
    place = Path(np.__file__).parent
    for entry in (place, place.with_name("numpy.libs")):
        if entry.exists():
            (numpy_only / entry.name).symlink_to(entry)
    (tmp_path / "package").mkdir()
    link_package(ROOT, tmp_path / "package")
    paths = f"{tmp_path / 'package'}:{numpy_only}"
    code = "import resnetrt.benchmarks.gpu.run as r, resnetrt.errors, resnetrt; print(r.__file__, resnetrt.__file__)"
    bare = [sys.executable, "-S"]
    done = subprocess.run(
        [*bare, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(tmp_path / "package")) for path in done.stdout.split())

    def check(packages: Path) -> subprocess.CompletedProcess[str]:
        command = [*bare, str(ROOT / "benchmarks" / "gpu"), str(tmp_path / "gpu.json"), "--only", "copies"]
        environment = {**os.environ, "PYTHONPATH": str(packages)}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = check(numpy_only)
    assert done.returncode == 4
    assert re.fullmatch(r"resnetrt: gpu-check: .*, missing click, .*pillow.*; run: pip install .*\s", done.stderr)
    assert not (tmp_path / "gpu.json").exists()
    done = check(place.parent)  # site-packages
    assert done.returncode in {0, 1}, done.stderr
    assert json.loads((tmp_path / "gpu.json").read_text())["complete"]


def test_the_packages_that_are_looked_for_are_those_of_the_base_install():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = setup["options"]["install_requires"].split()
    assert sorted(PACKAGES.values()) == sorted(re.split("[>=<]", text)[0] for text in wanted)
