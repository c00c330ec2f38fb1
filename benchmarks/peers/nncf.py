"""The closest peer: NNCF's MIXED preset, run by OpenVINO, with the bundle's own float model and calibration images.

NNCF works in a process of its own, as it patches torch where both are imported. Its model is kept: the next run with
the same network and versions takes it as it is.
"""

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.benchmarks.peers.engines import bake_preprocessing
from resnetrt.benchmarks.peers.isolated import make
from resnetrt.benchmarks.peers.store import peer_versions
from resnetrt.benchmarks.peers.tools import REFERENCE, TOOLS
from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing
from resnetrt.export.compilers.openvino import fix_batch
from resnetrt.preprocess import FloatArray, Preprocessing
from resnetrt.runtime.backends.openvino import properties, shared_core

NNCF = "nncf-openvino-int8"
NNCF_FRAMES = "nncf-openvino-int8-ppp"  # OpenVINO's PrePostProcessor in front: takes frames


def nncf_model(bundle: Bundle, work: Path, data: str, samples: int) -> Path:
    """The model as OpenVINO's IR, quantized with `samples` images of `data`; made if it is not there.

    Raises `BackendMissing` without NNCF or OpenVINO, `EnvironmentFault` if NNCF fails.
    """
    if importlib.util.find_spec("nncf") is None or importlib.util.find_spec("openvino") is None:
        raise BackendMissing(f"{NNCF}: expected the package nncf, found none; run: pip install 'resnetrt[peers]'")
    path = work / f"{bundle.manifest.name}-{_recipe(bundle, data, samples)}-nncf.xml"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nncf-", dir=work) as folder:
            made = make(TOOLS[REFERENCE], bundle, data, samples, Path(folder)).path
            made.with_suffix(".bin").replace(path.with_suffix(".bin"))  # the weights first: the .xml says it is whole
            made.replace(path)
    return path


def bake_frames(model: Path, preprocessing: Preprocessing) -> Path:
    """The model that takes uint8 `(N, H, W, C)`, preprocessed as OpenVINO does it; kept beside `model`."""
    path = model.with_name(f"{model.stem}-frames.xml")
    return path if path.exists() else bake_preprocessing(model, preprocessing)


def open_request(model: Path, threads: int) -> Infer:
    """The model compiled with the settings of this project's engines; a call is the bare request's.

    As in these, single images have a compiled model of their own.
    """
    core, settings = shared_core(), properties("int8", threads)
    single = core.read_model(model)
    fix_batch(single, 1)
    alone, several = (core.compile_model(found, "CPU", settings).create_infer_request() for found in (single, model))

    def infer(batch: FloatArray) -> FloatArray:
        request: Any = alone if len(batch) == 1 else several
        logits: FloatArray = next(iter(request.infer({0: batch}, share_inputs=True).values()))
        return logits

    return infer


def _recipe(bundle: Bundle, data: str, samples: int) -> str:
    """Twelve hex digits over the float model, the preprocessing, the images and the versions."""
    manifest = bundle.manifest
    fp32 = manifest.files[manifest.variants["fp32"].file].sha256
    decides = repr((fp32, manifest.preprocessing.to_json(), sorted(peer_versions().items()), (data, samples)))
    return hashlib.sha256(decides.encode()).hexdigest()[:12]
