import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from resnetrt import atomic
from resnetrt.atomic import exchange_directories, staging, write_file

DEAD_PID = 2**22 + 1  # above the largest pid that Linux gives


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def folder_with(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def tidy(path: Path) -> None:
    with staging(path):
        pass


# Prints `ready` in the middle of writing argv[1], a directory, and ends the way argv[2] says when it is sent a line.
WRITER = """
import os, sys
from pathlib import Path
from resnetrt.atomic import staging
with staging(Path(sys.argv[1])) as staged:
    staged.mkdir()
    (staged / "file").write_text("in work")
    print("ready", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "killed":
        os._exit(9)
    staged.rename(sys.argv[1])
"""
TIDY = (
    "import sys\nfrom pathlib import Path\nfrom resnetrt.atomic import staging\nwith staging(Path(sys.argv[1])): pass"
)
ELSEWHERE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(params=["same pids", "other pids"])
def elsewhere(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """How a process is started: as usual, or where it sees no other's pid, as in a container of its own."""
    if request.param == "same pids":
        return ()
    if subprocess.run([*ELSEWHERE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a new pid namespace is not allowed here")
    return ELSEWHERE


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_two_processes_on_one_bundle(tmp_path: Path, elsewhere: tuple[str, ...], end: str):
    path = tmp_path / "net.bundle"
    command = [*elsewhere, sys.executable, "-c", WRITER, str(path), end]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        subprocess.run([*elsewhere, sys.executable, "-c", TIDY, str(path)], check=True, timeout=60)
        assert len(names(tmp_path)) == 1
        writer.communicate("go on\n", timeout=60)
    assert names(tmp_path) == (["net.bundle"] if end == "finished" else [names(tmp_path)[0]])
    subprocess.run([*elsewhere, sys.executable, "-c", TIDY, str(path)], check=True, timeout=60)
    assert names(tmp_path) == (["net.bundle"] if end == "finished" else [])


def test_a_forked_process_neither_deletes_what_is_in_work_nor_keeps_the_lock(tmp_path: Path):
    path = tmp_path / "net.bundle"
    inside, leave = os.pipe()
    with staging(path) as staged:
        folder_with(staged, "in work")
        child = os.fork()
        if child == 0:
            os.close(leave)
            os.read(inside, 1)  # it stays, with the folder open
            os._exit(0)
        tidy(path)
        assert staged.exists()
    (tmp_path / ".net.bundle.staging-xleft").mkdir()
    tidy(path)
    assert names(tmp_path) == []
    os.close(leave)
    os.waitpid(child, 0)


def test_leaving_the_block_in_a_forked_process_deletes_nothing(tmp_path: Path):
    child = None
    try:
        with staging(tmp_path / "net.bundle") as staged:
            folder_with(staged, "in work")
            child = os.fork()
            if child == 0:
                raise KeyboardInterrupt
            os.waitpid(child, 0)
            tidy(tmp_path / "net.bundle")
            assert staged.exists()
    finally:
        if child == 0:
            os._exit(0)


def test_nothing_is_tidied_where_folders_can_not_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """NFS takes an exclusive lock only on what is open for writing."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    left = folder_with(tmp_path / ".net.bundle.staging-xleft", "somebody's")
    with staging(tmp_path / "net.bundle") as staged:
        folder_with(staged, "new").rename(tmp_path / "net.bundle")
    assert left.exists()
    assert (tmp_path / "net.bundle" / "file").read_text() == "new"


@pytest.fixture(params=["no renameat2", "renameat2 refuses"])
def without_exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library, or a file system, that can't swap two directories in one call."""
    libc = SimpleNamespace() if request.param == "no renameat2" else SimpleNamespace(renameat2=lambda *_: -1)
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_args, **_options: libc)


def test_write_file_creates_parents_and_replaces(tmp_path: Path):
    path = tmp_path / "a" / "b" / "report.json"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["report.json"]


def test_write_file_replaces_a_link_and_not_what_it_points_to(tmp_path: Path):
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "twin").hardlink_to(tmp_path / "other")
    write_file(tmp_path / "twin", b"new")
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert (tmp_path / "twin").read_bytes() == b"new"


def test_write_file_leaves_nothing_behind_on_failure(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_file(tmp_path / "taken", b"x")  # a file can't replace a directory
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("place", ["/proc", "/sys"])
def test_write_file_to_a_place_that_takes_no_files(place: str):
    with pytest.raises(OSError, match=r"No such file|not permitted|denied|[Rr]ead-only"):
        write_file(Path(place) / "resnetrt" / "x", b"x")


def test_write_file_to_a_full_disk_keeps_the_old_file(full_disk: Path):
    (full_disk / "report").write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        write_file(full_disk / "report", bytes(1 << 20))
    assert (full_disk / "report").read_bytes() == b"old"
    assert names(full_disk) == ["report"]


def test_write_file_past_the_size_limit_keeps_the_old_file(tmp_path: Path):
    write_file(tmp_path / "report", b"old")
    script = (
        "import resource, sys; from pathlib import Path; from resnetrt.atomic import write_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_file(Path(sys.argv[1]), bytes(100_000))\n"
        "except OSError as error: print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "report")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert (tmp_path / "report").read_bytes() == b"old"
    assert names(tmp_path) == ["report"]


def test_write_file_by_many_threads_is_one_of_them_whole(tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    blobs = [bytes([value]) * 200_000 for value in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda blob: write_file(tmp_path / "report", blob), blobs))
    assert (tmp_path / "report").read_bytes() in blobs
    assert names(tmp_path) == ["report"]


def test_exchange_swaps_two_directories_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "rename", None)  # the way that is not atomic
    new, path = folder_with(tmp_path / "new", "new"), folder_with(tmp_path / "path", "old")
    exchange_directories(new, path)
    assert ((path / "file").read_text(), (new / "file").read_text()) == ("new", "old")
    assert names(tmp_path) == ["new", "path"]


@pytest.mark.usefixtures("without_exchange")
def test_exchange_by_two_renames(tmp_path: Path):
    new, path = folder_with(tmp_path / "new", "new"), folder_with(tmp_path / "path", "old")
    exchange_directories(new, path)
    assert ((path / "file").read_text(), (new / "file").read_text()) == ("new", "old")
    assert names(tmp_path) == ["new", "path"]


@pytest.mark.usefixtures("without_exchange")
def test_exchange_that_fails_half_way_puts_the_old_one_back(tmp_path: Path):
    path = folder_with(tmp_path / "path", "old")
    with pytest.raises(OSError, match="No such file"):
        exchange_directories(tmp_path / "absent", path)
    assert (path / "file").read_text() == "old"
    assert names(tmp_path) == ["path"]


@pytest.mark.usefixtures("without_exchange")
def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder_with(tmp_path / "path", "old")
    new = folder_with(tmp_path / f".path.staging-{DEAD_PID}", "new")
    rename, done = Path.rename, []

    def power_cut(self: Path, target: Path) -> Path:
        if done:
            os._exit(9)
        done.append(self)
        return rename(self, target)

    child = os.fork()
    if child == 0:  # a real process dies after the first rename
        monkeypatch.setattr(Path, "rename", power_cut)
        exchange_directories(new, path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not path.exists()
    tidy(path)
    assert (path / "file").read_text() == "old"
    assert names(tmp_path) == ["path"]


def test_stale_staging_of_dead_processes_is_removed(tmp_path: Path):
    path = tmp_path / "net.bundle"
    for name in (f".net.bundle.staging-{DEAD_PID}", f".net.bundle.staging-{DEAD_PID}-3"):
        folder_with(tmp_path / name, "half written")
    (tmp_path / f".net.bundle.staging-{DEAD_PID}-4").write_text("a file half written")
    tidy(path)
    assert names(tmp_path) == []


def test_staging_of_running_processes_stays(tmp_path: Path):
    path = tmp_path / "net.bundle"
    other = folder_with(tmp_path / f".net.bundle.staging-{os.getppid()}", "in work, by an earlier version")
    foreign = folder_with(tmp_path / f".other.bundle.staging-{DEAD_PID}", "not ours")
    with staging(path) as first, staging(path) as second:
        folder_with(first, "in work")
        second.write_text("a file")
        tidy(path)
        assert first.is_dir()
        assert second.is_file()
        assert first != second
        assert all(each.parent == tmp_path and each.name.startswith(".net.bundle.") for each in (first, second))
    assert not first.exists()
    assert not second.exists()
    assert other.exists()
    assert foreign.exists()


def test_staging_left_by_an_earlier_process_with_our_pid_is_removed(tmp_path: Path):
    """In a container every run is process 1."""
    folder_with(tmp_path / f".net.bundle.staging-{os.getpid()}-earlier", "half written")
    tidy(tmp_path / "net.bundle")
    assert names(tmp_path) == []


def test_write_file_removes_what_killed_writers_left(tmp_path: Path, make_stale: Callable[[Path], Path]):
    stale = make_stale(tmp_path / "report")
    write_file(tmp_path / "report", b"x")
    assert not stale.exists()


@pytest.fixture
def make_stale() -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        stale = path.with_name(f".{path.name}.staging-{DEAD_PID}")
        stale.write_bytes(b"half")
        return stale

    return make
