"""What TensorRT's provider of ONNX Runtime keeps, when several processes load at once; a double builds."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from resnetrt.kept_files import use
from resnetrt.runtime.backends.onnxruntime_cache import building, kept_options


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def kept_for(path: Path, content: bytes) -> dict[str, str]:
    path.write_bytes(content)
    return kept_options(path, "fp16", "1.31.1")


def load_as_the_provider_does(options: Mapping[str, str], target: str) -> str:
    """Read the engine if there is one, else build it; both files are written in place, slowly."""
    engine = Path(options["trt_engine_cache_path"]) / f"kernel_{target}.engine"
    timings = Path(options["trt_timing_cache_path"]) / f"{target}.timing"
    if engine.exists():
        return engine.read_text()
    known = timings.read_text() if timings.exists() else ""
    for path, text in ((engine, "the whole engine"), (timings, f"{known}{os.getpid()} ")):
        with path.open("w") as file:
            for letter in text:
                file.write(letter)
                file.flush()
                time.sleep(0.005)
    return "built"


def load(path: str, begin: str) -> None:
    """What another process does, at the time `begin`; it prints what came of it."""
    options = kept_options(Path(path), "fp16", "1.31.1")
    time.sleep(max(0.0, float(begin) - time.time()))
    with building(options, "sm86"):
        print(load_as_the_provider_does(options, "sm86"))


def load_in_processes(paths: list[Path]) -> list[str]:
    begin = str(time.time() + 2)
    commands = [[sys.executable, __file__, str(path), begin] for path in paths]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    return sorted(other.communicate(timeout=60)[0].strip() for other in others)


def test_one_process_builds_and_the_others_read_the_whole_engine(tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(b"a")
    assert load_in_processes([tmp_path / "m.onnx"] * 3) == ["built", "the whole engine", "the whole engine"]


def test_timings_of_two_models_that_are_built_at_once_are_both_kept(tmp_path: Path, home: Path):
    for name in "ab":
        (tmp_path / f"{name}.onnx").write_bytes(name.encode())
    assert load_in_processes([tmp_path / "a.onnx", tmp_path / "b.onnx"]) == ["built", "built"]
    (timings,) = home.rglob("*.timing")
    assert len(timings.read_text().split()) == 2


def is_free(options: Mapping[str, str], target: str) -> bool:
    """Whether another thread may load meanwhile; a thread stands for a process, as each opens the file anew."""
    entered = threading.Event()

    def enter() -> None:
        with building(options, target):
            entered.set()

    other = threading.Thread(target=enter, daemon=True)
    other.start()
    others.append(other)
    return entered.wait(0.3)


others: list[threading.Thread] = []  # some of which still wait


def let_others_end() -> None:
    while others:
        others.pop().join(60)


def test_an_engine_that_is_there_is_loaded_while_another_model_is_built(tmp_path: Path):
    first, second = (kept_for(tmp_path / f"{name}.onnx", name.encode()) for name in "ab")
    with building(first, "sm86"):
        assert not is_free(first, "sm86")
        assert not is_free(second, "sm86")
    let_others_end()
    (Path(second["trt_engine_cache_path"]) / "kernel_fp16_sm86.engine").write_bytes(b"x")
    with building(first, "sm86"):
        assert is_free(second, "sm86")
        assert not is_free(second, "sm89")
    let_others_end()
    with building(first, "sm86"):
        assert not is_free(second, "")
    let_others_end()


def test_using_the_folder_excludes_nobody(tmp_path: Path):
    """Every process that has loaded the file holds a lock on its folder, so that nobody deletes it."""
    options = kept_for(tmp_path / "m.onnx", b"a")
    assert use(Path(options["trt_engine_cache_path"]))
    assert is_free(options, "sm86")


def test_where_nothing_is_kept_nothing_is_locked():
    with building({}, "sm86"):
        assert is_free({"device_id": "0"}, "sm86")


if __name__ == "__main__":
    load(*sys.argv[1:])
