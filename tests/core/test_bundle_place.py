"""Where a bundle may be written, and what a crash or a full disk leaves there."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resnetrt import atomic
from resnetrt import bundle as bundle_module
from resnetrt.bundle import Bundle, check_destination, create_bundle
from resnetrt.errors import BundleError, UsageError
from resnetrt.manifest import Manifest

MakeBundle = Callable[[Path], Bundle]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that imports the bundle and runs `script`, which prints a line when it is ready."""
    head = "import sys, time\nfrom pathlib import Path\nfrom resnetrt.bundle import Bundle, create_bundle\n"
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def test_overwriting_needs_to_be_asked_for(bundle: Bundle, manifest: Manifest):
    with pytest.raises(
        UsageError, match=r"--out .*net\.bundle: a bundle is there already; add --overwrite to replace it"
    ):
        check_destination(bundle.path, overwrite=False)
    with create_bundle(bundle.path, manifest, overwrite=True) as editor:
        editor.write("fp32.onnx", b"new")
        assert Bundle.open(bundle.path).file("fp32.onnx").stat().st_size == 1500  # the old one until the end
    assert names(bundle.path) == ["fp32.onnx", "manifest.json"]
    assert names(bundle.path.parent) == ["net.bundle"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_bundle_is_ever_overwritten(tmp_path: Path, manifest: Manifest, overwrite: bool):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("photos", "file"):
        with pytest.raises(UsageError, match=f"--out .*{name}: expected a new path or a bundle, found something else"):
            create_bundle(tmp_path / name, manifest, overwrite).__enter__()
    assert names(tmp_path) == ["file", "photos"]
    assert names(tmp_path / "photos") == ["a.jpg"]


def test_a_folder_that_takes_no_files_is_said_before_the_long_work():
    with pytest.raises(OSError, match=r"'/proc/a/net\.bundle'"):  # root may write there by its rights, and can't
        check_destination(Path("/proc/a/net.bundle"), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_root_of_all_folders_is_no_place_for_a_bundle(overwrite: bool):
    with pytest.raises(UsageError, match="--out /: expected a new path or a bundle, found something else"):
        check_destination(Path("/"), overwrite)


def test_an_empty_folder_and_a_new_path_are_fine(tmp_path: Path, make_bundle: MakeBundle):
    (tmp_path / "empty").mkdir()
    assert make_bundle(tmp_path / "empty").manifest.name == "net"
    assert make_bundle(tmp_path / "a" / "b" / "c").manifest.name == "net"
    assert names(tmp_path) == ["a", "empty"]


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path, manifest: Manifest, make_bundle: MakeBundle):
    def create() -> None:
        with create_bundle(tmp_path / "net", manifest) as editor:
            editor.write("a", b"mine")
            make_bundle(tmp_path / "net")

    with pytest.raises(UsageError, match="a bundle is there already"):
        create()
    assert "fp32.onnx" in Bundle.open(tmp_path / "net").manifest.files
    assert names(tmp_path) == ["net"]


def test_editing_through_a_link_keeps_the_link(bundle: Bundle):
    link = bundle.path.parent / "current"
    link.symlink_to(bundle.path.name)
    with Bundle.open(link).edit() as editor:
        editor.write("other", b"x")
    assert link.is_symlink()
    assert "other" in Bundle.open(bundle.path).manifest.files
    assert names(bundle.path.parent) == ["current", "net.bundle"]


def test_overwriting_through_a_link_keeps_the_link(bundle: Bundle, manifest: Manifest):
    link = bundle.path.parent / "current"
    link.symlink_to(bundle.path.name)
    with create_bundle(link, manifest, overwrite=True) as editor:
        editor.write("fp32.onnx", b"new")
    assert link.is_symlink()
    assert Bundle.open(bundle.path).file("fp32.onnx").read_bytes() == b"new"
    assert names(bundle.path.parent) == ["current", "net.bundle"]


def test_the_current_folder_can_be_the_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(bundle.path)
    opened = Bundle.open(".")
    for name in ("one", "two"):
        with opened.edit() as editor:
            editor.write(name, b"x")
    assert {"one", "two"} <= Bundle.open(bundle.path).manifest.files.keys()
    assert opened.file("two").read_bytes() == b"x"
    assert names(bundle.path.parent) == ["net.bundle"]


@pytest.mark.parametrize("method", ["no renameat2", "refused"])
def test_edit_without_an_atomic_exchange(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, method: str):
    class Libc:
        if method == "refused":
            renameat2 = staticmethod(lambda *_: -1)

    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_args, **_options: Libc)
    with bundle.edit() as editor:
        editor.write("other", b"x")
    assert "other" in Bundle.open(bundle.path).manifest.files
    assert names(bundle.path.parent) == ["net.bundle"]


def test_killed_in_the_middle_of_an_edit(bundle: Bundle):
    script = (
        "with Bundle.open(sys.argv[1]).edit() as editor:\n"
        "    editor.write('fp32.onnx', b'half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = start(script, bundle.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    kill(process)
    assert len(names(bundle.path.parent)) == 2  # the staging directory is left over
    assert Bundle.open(bundle.path).file("fp32.onnx").read_bytes() == b"the float model" * 100
    with bundle.edit() as editor:
        editor.write("other", b"x")
    assert names(bundle.path.parent) == ["net.bundle"]


def test_killed_while_creating(tmp_path: Path, bundle: Bundle, manifest: Manifest):
    script = (
        "manifest = Bundle.open(sys.argv[1]).manifest\n"
        "with create_bundle(Path(sys.argv[2]), manifest) as editor:\n"
        "    editor.write('fp32.onnx', b'half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = start(script, bundle.path, tmp_path / "new")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    kill(process)
    assert not (tmp_path / "new").exists()
    with create_bundle(tmp_path / "new", manifest) as editor:
        editor.write("fp32.onnx", b"whole")
    assert names(tmp_path) == ["net.bundle", "new"]


def test_killed_at_any_moment_of_many_edits(bundle: Bundle):
    """Both files of every edit carry the same number, so a mixture of two edits would show."""
    script = (
        "bundle = Bundle.open(sys.argv[1])\n"
        "for number in range(1_000_000):\n"
        "    with bundle.edit() as editor:\n"
        "        editor.write('one', str(number).encode())\n"
        "        editor.write('engines/two', str(number).encode())\n"
        "        editor.manifest.golden = {'number': number}\n"
        "    if number == 0: print('ready', flush=True)\n"
    )
    for pause in (0.0, 0.013, 0.029, 0.041):
        process = start(script, bundle.path)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(pause)
        kill(process)
        opened = Bundle.open(bundle.path)
        one, two = (opened.file(name).read_text() for name in ("one", "engines/two"))
        assert one == two == str(opened.manifest.golden["number"])


def test_another_process_edits_meanwhile(bundle: Bundle):
    def collide() -> None:
        with bundle.edit() as editor:
            editor.write("mine", b"x")
            script = "with Bundle.open(sys.argv[1]).edit() as editor: editor.write('theirs', b'y')"
            process = start(script, bundle.path)
            assert process.communicate(timeout=60)[1] == ""

    with pytest.raises(BundleError, match="another process changed it meanwhile"):
        collide()
    assert "theirs" in Bundle.open(bundle.path).manifest.files
    assert names(bundle.path.parent) == ["net.bundle"]


def test_two_edits_that_end_at_the_same_moment(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    """Between the look at the bundle and the exchange no other edit may end: its work would be lost without a word."""
    about_to_exchange = threading.Event()

    def slow(new: Path, path: Path) -> None:
        if not about_to_exchange.is_set():
            about_to_exchange.set()
            time.sleep(0.5)
        atomic.exchange_directories(new, path)

    def write(name: str) -> str:
        with Bundle.open(bundle.path).edit() as editor:
            editor.write(name, b"x")
        return name

    monkeypatch.setattr(bundle_module, "exchange_directories", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write, "first")
        assert about_to_exchange.wait(30)
        second = pool.submit(write, "second")
        done = {run.result() for run in (first, second) if run.exception() is None}
    assert isinstance(second.exception(), BundleError)
    assert done == {"first"}
    assert done <= Bundle.open(bundle.path).manifest.files.keys()


@pytest.mark.parametrize("place", ["/proc/self/net.bundle", "/sys/net.bundle", "/sys/kernel/a/b"])
def test_a_place_that_takes_no_folders(place: str, manifest: Manifest):
    with pytest.raises(OSError, match=r"No such file|not permitted|denied|[Rr]ead-only"):
        create_bundle(Path(place), manifest).__enter__()
    assert not Path(place).exists()


def test_a_parent_that_is_a_file(tmp_path: Path, manifest: Manifest):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        create_bundle(tmp_path / "file" / "net", manifest).__enter__()
    assert names(tmp_path) == ["file"]


def test_full_disk_while_editing(full_disk: Path, make_bundle: MakeBundle):
    bundle = make_bundle(full_disk / "net")

    def fill() -> None:
        with bundle.edit() as editor:
            editor.write("big", bytes(1 << 20))

    with pytest.raises(OSError, match="No space left on device"):
        fill()
    assert names(full_disk) == ["net"]
    assert "big" not in Bundle.open(bundle.path).manifest.files


def test_full_disk_while_creating(full_disk: Path, manifest: Manifest):
    def fill() -> None:
        with create_bundle(full_disk / "net", manifest) as editor:
            editor.write("small", b"x")
            editor.write("big", bytes(1 << 20))

    with pytest.raises(OSError, match="No space left on device"):
        fill()
    assert names(full_disk) == []


def test_size_limit_while_editing(bundle: Bundle):
    script = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with Bundle.open(sys.argv[1]).edit() as editor: editor.write('big', bytes(100_000))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    output, errors = start(script, bundle.path).communicate(timeout=60)
    assert (output, errors) == ("File too large\n", "")
    assert names(bundle.path.parent) == ["net.bundle"]
    assert "big" not in Bundle.open(bundle.path).manifest.files


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a read-only file system")
def test_read_only_file_system(full_disk: Path, make_bundle: MakeBundle):
    bundle = make_bundle(full_disk / "net")
    command = ["mount", "-o", "remount,ro", str(full_disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("remounting is not allowed here")
    assert Bundle.open(bundle.path).manifest.name == "net"  # reading needs no rights to write
    with pytest.raises(BundleError, match="it is write-protected"):
        bundle.edit().__enter__()
    assert names(full_disk) == ["net"]
