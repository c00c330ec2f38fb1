"""Which small computer this is: a Jetson with its JetPack and power mode, a Raspberry Pi. Read without root rights.

Each reader takes the root of the file system, since a test plants there what a device has.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# the major of JetPack by that of L4T, for images without the package nvidia-jetpack
_JETPACK = {"32": "4", "35": "5", "36": "6", "38": "7", "39": "7"}
_ROOT = Path("/")


@dataclass(frozen=True)
class Board:
    """`model` as the device tree names it; `l4t` (36.4.7), `jetpack` (6.2.1+b38) and `power_mode` of a Jetson.

    Where the package nvidia-jetpack is not installed, `jetpack` is only the major.
    """

    model: str
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None


def read_board(root: Path = _ROOT) -> Board | None:
    """The board, None where neither a device tree nor L4T names one, as on a PC."""
    model = read_text(root / "proc/device-tree/model").replace("\0", "").strip()
    l4t = _l4t(read_text(root / "etc/nv_tegra_release"))
    if not model and l4t is None:
        return None
    if l4t is None:
        return Board(model)
    jetpack = package_version("nvidia-jetpack", root) or _JETPACK.get(l4t.partition(".")[0])
    return Board(model or "Jetson", l4t, jetpack, _power_mode(root))


def package_version(name: str, root: Path = _ROOT) -> str | None:
    """The version of an installed Debian package; None if it is not installed, or dpkg is not used here."""
    for paragraph in read_text(root / "var/lib/dpkg/status").split("\n\n"):
        if paragraph.startswith(f"Package: {name}\n") and "\nStatus: install ok installed\n" in paragraph:
            match = re.search(r"^Version: (\S+)", paragraph, re.MULTILINE)
            return match[1] if match else None
    return None


def cuda_toolkit(root: Path = _ROOT) -> str | None:
    """The version of the system's CUDA libraries, as 12.6.11; None where there is no /usr/local/cuda."""
    match = re.search(
        r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', read_text(root / "usr/local/cuda/version.json")
    )
    return match[1] if match else None


def read_text(path: Path) -> str:
    """The text of a file, empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _l4t(release: str) -> str | None:
    """36.4.7 from `# R36 (release), REVISION: 4.7, GCID: ...`."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{match[1]}.{match[2]}" if match else None


def _power_mode(root: Path) -> str | None:
    """The mode that nvpmodel set last, else the one that it sets at the start; `nvpmodel -q` itself may need root."""
    configured = read_text(root / "etc/nvpmodel.conf")
    names = dict(re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", configured, re.MULTILINE))
    chosen = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    chosen = chosen or re.search(r"^\s*<\s*PM_CONFIG\s+DEFAULT=(\d+)\s*>", configured, re.MULTILINE)
    if chosen is None:
        return None
    number = str(int(chosen[1]))
    return f"{names[number]} (mode {number})" if number in names else f"mode {number}"
