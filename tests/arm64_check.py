"""The runtime on an emulated arm64, as on a Raspberry Pi or a Jetson without its GPU: `make arm64-check`.

qemu runs Debian's arm64 Python with aarch64 wheels from the package index; both lie in build/arm64 and the system stays
as it is. The bundle comes from this machine. Each engine must load there (which runs the self-test), see in a photo
what it sees here, and answer a request. Steps that were done are not repeated; exit status 4: a part can't be had here.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import bare_http
import numpy as np
from device_bundle import FP32, INT8, add_engines, write_photo
from serving_process import serving
from source_tree import ROOT, listed

PLACE = ROOT / "build" / "arm64"
TESTED = "1.23.2"  # of ONNX Runtime; 1.32 crashes in Debian 12's qemu 7.2 while it is imported
DEBIAN = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64", "manylinux_2_17_aarch64")
QEMU = "qemu-aarch64-static"
CPU = "cortex-a72"  # a Raspberry Pi 4's; on qemu's own, which has SVE, OpenVINO computes nonsense
LIMIT_S = 900  # against hanging only
LEAST_DB = {FP32: 100.0, INT8: 30.0}


class NotHere(Exception):
    """A part of the check can't be had on this machine."""


def say(line: str) -> None:
    print(f"arm64-check: {line}", flush=True)


def run(*command: str | Path, **environment: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=LIMIT_S
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"{Path(command[0]).name}: {last}")
    return done.stdout


def once(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `name`, made anew unless it was completed for the same `key`."""
    folder, done = PLACE / name, PLACE / f"{name}.done"
    if done.is_file() and done.read_text() == key:
        say(f"{name}: already there")
        return folder
    done.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"{name}: making it")
    make(folder)
    done.write_text(key)
    return folder


def unpack_debian(root: Path) -> None:
    """Debian's arm64 packages and what they need, by an apt that knows neither this system's packages nor its lists."""
    apt = PLACE / "apt"
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    try:
        run("apt-get", *options, "update")
        run("apt-get", *options, "--yes", "--download-only", "install", *DEBIAN)
    except RuntimeError as error:
        raise NotHere(f"Debian's arm64 packages: {error}") from error
    for package in sorted((apt / "archives").glob("*.deb")):
        run("dpkg-deb", "--extract", package, root)


def requirements() -> list[str]:
    """What the base install and its server need."""
    wanted = listed("options", "install_requires") + listed("options.extras_require", "serve")
    return [line for line in wanted if not line.startswith("#")]


def install_wheels(folder: Path) -> None:
    """aarch64 wheels; none is compiled."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("onnxruntime==")]
    constraints = PLACE / "constraints.txt"
    constraints.write_text("\n".join([*kept, f"onnxruntime=={TESTED}"]))
    platforms = [f"--platform={name}" for name in PLATFORMS]
    options = ["--quiet", "--only-binary=:all:", "--python-version=3.11", *platforms, "--constraint", str(constraints)]
    try:
        run(sys.executable, "-m", "pip", "install", *options, "--target", folder, *requirements())
    except RuntimeError as error:
        raise NotHere(f"aarch64 wheels: {error}") from error


def install_source(folder: Path) -> None:
    """This source, as its wheel holds it."""
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(sys.executable, "-m", "pip", "install", *options, "--target", folder, ROOT)


def make_bundle(folder: Path) -> None:
    """The embedded network with FP32 and INT8 engines, and a photo."""
    from resnetrt.benchmarks.verify.prepare import prepare_export
    from resnetrt.calibration.observe.collect import calibrate_bundle
    from resnetrt.export.fp32.export import export_bundle

    bundle, _ = export_bundle(prepare_export("fashion_resnet20"), folder / "fashion.bundle")
    calibrate_bundle(bundle, "fashion_calib", 256)
    add_engines(bundle.path)
    write_photo(folder / "photo.png")


def emulated(root: Path, packages: Iterable[Path]) -> list[str]:
    """The command that starts the arm64 Python."""
    variables = {"PYTHONHOME": f"{root}/usr", "PYTHONPATH": ":".join(map(str, packages)), "PYTHONNOUSERSITE": "1"}
    settings = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
    return [QEMU, "-cpu", CPU, "-L", str(root), *settings, f"{root}/usr/bin/python3.11"]


def on_device(python: Iterable[str], folder: Path) -> dict[str, Any]:
    """What `on_device.py` finds with this Python."""
    words = [ROOT / "tests" / "on_device.py", folder / "fashion.bundle", folder / "photo.png", *LEAST_DB]
    record: dict[str, Any] = json.loads(run(*python, *words))
    return record


def check_engines(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises `RuntimeError` unless each engine is right there and sees what it sees here."""
    if there["machine"] != "aarch64":
        raise RuntimeError(f"expected Python on aarch64, found {there['machine']}")
    say(f"Python {there['python']}, ONNX Runtime {there['onnxruntime']}, numpy {there['numpy']}, {there['machine']}")
    for engine, least in LEAST_DB.items():
        row, expected = there["engines"][engine], here["engines"][engine]
        say(f"{engine}: self-test {row['sqnr_db']:.2f} dB (here {expected['sqnr_db']:.2f}), sees {row['seen']}")
        if row["sqnr_db"] < least or row["seen"] != expected["seen"]:
            raise RuntimeError(f"{engine}: expected {least} dB or more and {expected['seen']}, found {row}")


def check_request(python: Iterable[str], folder: Path, engine: str) -> None:
    """Serve the engine there and compare its answer to one HTTP request with that of the engine here."""
    from resnetrt.runtime import load

    with load(folder / "fashion.bundle", engine) as session:
        assert session.preprocessing is not None
        image = session.prepare(session.preprocessing.frame_from_file(folder / "photo.png")[None])
        (expected,) = session.infer(image).values()
        tensor = {
            "name": session.inputs[0].name,
            "datatype": "FP32",
            "shape": image.shape,
            "data": image.ravel().tolist(),
        }
    arguments = (folder / "fashion.bundle", "--engine", engine, "--threads", "2")
    with serving(PLACE / "serve.log", arguments, python=python) as server:
        name = json.loads(bare_http.request(server.http, "POST", "/v2/repository/index", b"{}")[2])[0]["name"]
        body = json.dumps({"inputs": [tensor]}).encode()
        status, _, answer = bare_http.request(server.http, "POST", f"/v2/models/{name}/infer", body)
    if status != 200:
        raise RuntimeError(f"{engine}: expected an answer of the server, found {status}: {answer[:300]!r}")
    logits = np.array(json.loads(answer)["outputs"][0]["data"])
    if logits.argmax() != expected.argmax():
        raise RuntimeError(f"{engine}: served logits {logits} differ from {expected}")
    say(f"{engine}: an HTTP request answered, logits within {abs(logits - expected).max():.2g}")


def check() -> None:
    """Prepare what is missing, then check. Raises `NotHere` or `RuntimeError`."""
    for tool, package in ((QEMU, "qemu-user-static"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(tool) is None:
            raise NotHere(f"{tool} is not installed: apt-get install {package}")
    root = once("root", " ".join(DEBIAN), unpack_debian)
    key = hashlib.sha256((ROOT / "constraints.txt").read_bytes() + repr((TESTED, requirements())).encode())
    packages = once("packages", key.hexdigest(), install_wheels)
    (PLACE / "source.done").unlink(missing_ok=True)  # always this source
    source = once("source", "", install_source)
    folder = once("device", "1", make_bundle)
    python = emulated(root, (source, packages))
    check_engines(on_device(python, folder), on_device([sys.executable], folder))
    for engine in LEAST_DB:
        check_request(python, folder, engine)


def main() -> int:
    """The exit status: 0 passed, 1 failed, 4 a part can't be had here."""
    PLACE.mkdir(parents=True, exist_ok=True)
    try:
        check()
    except NotHere as error:
        say(f"not run: {error}")
        return 4
    except RuntimeError as error:
        say(f"FAIL: {error}")
        return 1
    say("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
