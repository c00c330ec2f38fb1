"""What happens to a device: its disk is full, its power is cut, its clock is wrong, its root can't be written to.

A bundle is then the old one or the new one, the message is one line, and the exit code is that of the design.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import bare_http
import pytest
from clock_shim import clock_library
from serving_process import serving

from resnetrt.bundle import Bundle

COMMAND = [sys.executable, "-m", "resnetrt.cli"]
BACKENDS = [("onnxruntime", "int8"), ("openvino", "int8"), ("tensorrt_rtx", "fp16")]
# every test runs commands in processes of their own
pytestmark = pytest.mark.slow
CAST = {"fp16.onnx", "golden/fp16.safetensors", "outlines/fp16.json"}
MOMENTS = 6  # of a kill; each is one run of a command


def resnetrt(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run a command as a device does, in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def one_line(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """The error message of a run that ended with `code`."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("resnetrt: ")]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "please report" not in done.stderr
    return lines[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(bundle: Path) -> dict[str, str]:
    """Every file and its hash; raises if the bundle is not intact."""
    return {name: record.sha256 for name, record in Bundle.open(bundle).manifest.files.items()}


@pytest.fixture(scope="module")
def source(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's bundle without engines and without the cast to FP16, which `compile` then makes."""
    copy = tmp_path_factory.mktemp("source") / "device.bundle"
    shutil.copytree(bundle, copy)
    with Bundle.open(copy).edit() as editor:
        for engine in list(editor.manifest.engines):
            editor.drop_engine(engine)
        if editor.manifest.variants.pop("fp16", None):
            for name in CAST:
                editor.remove(name)
    return copy


@pytest.fixture
def device(source: Path, tmp_path: Path) -> Path:
    """A copy for one test to change, alone in its folder."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copytree(source, tmp_path / "data" / "device.bundle"))


@pytest.fixture(params=BACKENDS, ids=lambda item: item[0])
def compile_arguments(request: pytest.FixtureRequest) -> list[str]:
    backend, precision = request.param
    pytest.importorskip(backend)
    return ["--backend", backend, "--precision", precision]


@pytest.mark.parametrize("free_kib", [40, 300])
def test_a_device_that_is_full(
    source: Path, full_disk_of: Callable[[int], Path], compile_arguments: list[str], free_kib: int
):
    size = sum(-(-path.stat().st_size // 4096) * 4096 for path in source.rglob("*") if path.is_file())
    disk = full_disk_of(size + (free_kib << 10))
    bundle = Path(shutil.copytree(source, disk / "device.bundle"))
    before = content(bundle)
    message = one_line(resnetrt("compile", bundle, *compile_arguments), 4)
    assert re.search(
        rf"no room to write (.*{disk}.*|the result or a temporary .*): No space left on device; what was", message
    )
    assert content(bundle) == before
    assert names(disk) == ["device.bundle"]


def test_a_temporary_folder_that_is_full(device: Path, full_disk: Path):
    """The cast to FP16 goes through a file there."""
    pytest.importorskip("tensorrt_rtx")
    (full_disk / "fill").write_bytes(bytes(240 << 10))
    environment = os.environ | {"TMPDIR": str(full_disk)}
    before = content(device)
    done = resnetrt("compile", device, "--backend", "tensorrt_rtx", "--precision", "fp16", env=environment)
    assert "TMPDIR" in one_line(done, 4)
    assert content(device) == before
    assert names(full_disk) == ["fill"]


def kill_at_random_moments(arguments: list[str], seed: int, check: Callable[[], None]) -> int:
    """Run a command whole for its time, then `MOMENTS` times until a kill; how often it was killed before its end."""
    generator, killed = random.Random(seed), 0
    started = time.monotonic()
    assert subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, timeout=300).returncode == 0
    whole = time.monotonic() - started
    for _ in range(MOMENTS):
        started = time.monotonic()
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # most of the time goes into imports, where nothing can be damaged
            process.wait(whole * generator.uniform(0.4, 1.0))
            whole = min(whole, time.monotonic() - started)  # the run before may have met a busy machine
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
        check()
    return killed


def test_a_power_cut_at_any_moment_of_compile(device: Path, compile_arguments: list[str]):
    old = content(device)
    whole: dict[str, str] = {}

    def check() -> None:
        files = content(device)
        if Bundle.open(device).manifest.engines:
            whole.update(whole or files)
            assert files.keys() == whole.keys()  # not their hashes: TensorRT's engines differ from build to build
        else:  # as before, but a cast may have been added, which is a step of its own
            assert old.items() <= files.items()
            assert files.keys() - old.keys() in (set(), CAST)
        shutil.rmtree(device)
        shutil.copytree(device.parent / "before", device)

    shutil.copytree(device, device.parent / "before")
    assert kill_at_random_moments(["compile", str(device), *compile_arguments], 19, check)
    assert resnetrt("compile", device, *compile_arguments).returncode == 0
    assert names(device.parent) == ["before", "device.bundle"]  # nothing is left of the dead


def test_a_power_cut_at_any_moment_of_package(device: Path):
    assert resnetrt("compile", device, "--backend", "onnxruntime", "--precision", "int8").returncode == 0
    out = device.parent / "repository"
    states: list[object] = []

    def check() -> None:
        files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        states.append(files)
        assert files == states[0]

    arguments = ["package", "triton", str(device), "--out", str(out)]
    help_text = resnetrt("package", "triton", "--help").stdout
    assert kill_at_random_moments([*arguments, *(["--overwrite"] if "--overwrite" in help_text else [])], 7, check)


def test_a_power_cut_at_any_moment_of_deploy(tmp_path: Path):
    """`deploy` changes its bundle stage by stage, and each stage leaves a whole one."""
    out = tmp_path / "out"
    arguments = ["quickstart", "--out", str(out), "--json"]
    generator = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(generator.uniform(8, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
        bundles = [path for path in out.glob("*.bundle") if path.is_dir()]
        for bundle in bundles:
            content(bundle)
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("year", [1970, 2102])
def test_a_wrong_clock(device: Path, tmp_path: Path, year: int):
    """No time is compared with another one: not those of files, nor the clock."""
    seconds = (year - 1970) * 31_556_952
    shift = seconds - int(time.time())
    for path in [device, *device.rglob("*")]:
        os.utime(path, (seconds, seconds) if year == 1970 else (0, 0))
    stale = device.with_name(f".{device.name}.staging-x0000")
    stale.mkdir()
    environment = os.environ | {"LD_PRELOAD": clock_library(tmp_path, shift)}
    asked = [sys.executable, "-c", "import time; print(time.localtime().tm_year)"]
    assert subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout == f"{year}\n"
    for arguments in (
        ["compile", device, "--backend", "onnxruntime", "--precision", "int8"],
        ["verify", device],
        ["package", "triton", device, "--out", device.parent / "repository"],
    ):
        done = resnetrt(*arguments, "--json", env=environment)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["schema_version"] == 1
    assert names(device.parent) == ["device.bundle", "repository"]  # what a dead writer left is gone


@contextmanager
def read_only_root(data: Path) -> Iterator[list[str]]:
    """What to run a command with, so that it can write below `data` and in /tmp/shm alone."""
    mounts = (
        "mount --rbind / /mnt && mount -o remount,ro,bind /mnt && mount -t tmpfs tmpfs /mnt/tmp && "
        f'mkdir -p "/mnt{data}" && mount --bind "{data}" "/mnt{data}" && exec chroot /mnt "$@"'
    )
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "sh"]
    tried = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    if not tried or tried.returncode:
        pytest.skip("a read-only root needs the right to mount")
    yield command


@pytest.mark.parametrize("arguments", [["compile", "--backend", "onnxruntime", "--precision", "int8"], ["inspect"]])
def test_a_read_only_root_with_a_data_folder(device: Path, arguments: list[str]):
    with read_only_root(device.parent) as wrapper:
        name, *rest = arguments
        probe = [*wrapper, "sh", "-c", f"touch {Path.home()}/x 2>/dev/null || touch {device.parent}/y"]
        assert subprocess.run(probe, check=False, capture_output=True).returncode == 0
        assert (device.parent / "y").exists()
        assert not (Path.home() / "x").exists()
        command = [*wrapper, *COMMAND, name, str(device), *rest]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr


def test_the_cache_of_bench_in_a_read_only_home_names_the_option(tmp_path: Path):
    with read_only_root(tmp_path) as wrapper:
        command = [*wrapper, "env", f"HOME={Path.home()}/read-only", *COMMAND, "bench", "--depths", "18"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert "expected a cache that can be written, found" in one_line(done, 4)
        assert "--work" in done.stderr


@pytest.mark.parametrize("name", ["fp32.onnx", "golden.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_bundle_that_was_copied_half(device: Path, name: str, how: str):
    if how == "missing":
        (device / name).unlink()
    else:
        os.truncate(device / name, (device / name).stat().st_size // 2)
    for arguments in (["verify", device], ["compile", device, "--backend", "onnxruntime", "--precision", "int8"]):
        message = one_line(resnetrt(*arguments), 4)
        assert name in message
        assert re.search(r"copy or export (it|the bundle) again", message)


def test_two_compile_at_once(device: Path):
    """Both engines are there at the end, unless one says that it has to be run again."""
    runs = [
        subprocess.Popen(
            [*COMMAND, "compile", str(device), "--backend", "onnxruntime", "--precision", precision],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for precision in ("int8", "fp32")
    ]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    done = [run.returncode == 0 for run in runs]
    assert any(done)
    for run, error in zip(runs, errors, strict=True):
        assert run.returncode in (0, 4)
        assert run.returncode == 0 or "another process changed it meanwhile; run the command again" in error
    engines = Bundle.open(device).manifest.engines
    assert sorted(engines) == sorted(
        name for name, here in zip(("onnxruntime-int8-cpu", "onnxruntime-fp32-cpu"), done, strict=True) if here
    )


def test_two_services_that_start_at_once(device: Path):
    """On ports of their own both serve the bundle; on the same ports one serves and the other says why not."""
    for package in ("starlette", "uvicorn", "grpc", "prometheus_client"):
        pytest.importorskip(package)
    assert resnetrt("compile", device, "--backend", "onnxruntime", "--precision", "int8").returncode == 0
    before = content(device)
    log = device.parent / "log"
    with ExitStack() as stack:
        starts = [partial(serving, log.with_suffix(f".{at}"), [device]) for at in range(2)]
        with ThreadPoolExecutor(2) as pool:
            servers = list(pool.map(lambda start: stack.enter_context(start()), starts))
        ports = [str(servers[0].ports[name]) for name in ("http_port", "grpc_port", "metrics_port")]
        options = zip(("--http-port", "--grpc-port", "--metrics-port"), ports, strict=True)
        late = resnetrt("serve", device, *(word for pair in options for word in pair))
        assert ports[0] in one_line(late, 4)
        assert bare_http.request(servers[0].http, "GET", "/v2/health/ready")[0] == 200
        assert [server.end() for server in servers] == [0, 0]
    assert content(device) == before
