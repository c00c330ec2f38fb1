"""What the NVIDIA driver says about itself, in words: which CUDA it serves, and why it can't be used."""

from pathlib import Path

NO_DRIVER = "no NVIDIA driver: libcuda.so.1 can't be loaded"
# the first driver of each CUDA major; later minors run on it too ("CUDA minor version compatibility")
_FIRST_DRIVER = {12: "525", 13: "580"}
# cuInit's answers (cuda.h) that say what to do next
_MEANING = {
    34: "libcuda.so.1 is the toolkit's stub: it must not be on LD_LIBRARY_PATH",
    100: "no device",
    802: "the system is not ready: start nvidia-fabricmanager",
    803: "the driver's library and kernel module differ: reboot",
    804: "the container's CUDA is newer than the driver, and this GPU takes no compatibility package: update it",
}


_MODULE = Path("/sys/module/nvidia/version")


def driver_version() -> str:
    """The version of the kernel's NVIDIA module, such as 580.95.05; empty where there is none, as in WSL."""
    try:
        return _MODULE.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def dotted(version: int) -> str:
    """A version as CUDA gives it, in CUDA's usual form: 12020 is 12.2."""
    return f"{version // 1000}.{version % 1000 // 10}"


def start_trouble(status: int) -> str:
    """Why the driver does not start, from the status of `cuInit`; empty for 0."""
    meaning = f" ({_MEANING[status]})" if status in _MEANING else ""
    return f"the NVIDIA driver can't start: cuInit returned {status}{meaning}" if status else ""


def too_old(package: str, needed: str, driver: str) -> str:
    """That the driver serves CUDA `driver` only, while `package` was made for CUDA `needed`; both as `12.2`."""
    return f"the NVIDIA driver is too old: it serves CUDA {driver}, {package} is for CUDA {needed}"


def remedies(needed: str, driver: str) -> tuple[str, ...]:
    """What helps against `too_old`, each on its own."""
    major = int(needed.partition(".")[0])
    update = f"update the NVIDIA driver to {_FIRST_DRIVER.get(major, 'a newer version')} or newer"
    if major > 12 and driver.startswith("12."):
        return f"{update} (on a Jetson: a newer JetPack)", "pip install 'resnetrt[gpu-cu12]'"
    return (update,)
