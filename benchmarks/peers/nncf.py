"""The closest peer: NNCF's MIXED preset, run by OpenVINO, on the bundle's own float model and calibration images.

NNCF runs in its own process, because it patches torch if both are imported. Its model is kept and used again by the
next run with the same network and versions.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.measure.latency import NNCF, Infer
from resnetrt.benchmarks.peers.engines import bake_preprocessing
from resnetrt.benchmarks.peers.isolated import make
from resnetrt.benchmarks.peers.store import peer_versions
from resnetrt.benchmarks.peers.tools import REFERENCE, TOOLS
from resnetrt.bundle import Bundle
from resnetrt.export.compilers.openvino import fix_batch
from resnetrt.parts import require_parts
from resnetrt.preprocess import FloatArray, Preprocessing
from resnetrt.runtime.backends.openvino import properties, shared_core


def nncf_model(bundle: Bundle, work: Path, data: str, samples: int) -> Path:
    """The model as OpenVINO's IR, quantized with `samples` images of `data`; it is made if missing.

    Raises `BackendMissing` without NNCF or OpenVINO, `EnvironmentFault` if NNCF fails.
    """
    require_parts(NNCF, "nncf", "openvino")
    path = work / f"{bundle.manifest.name}-{_recipe(bundle, data, samples)}-nncf.xml"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="nncf-", dir=work) as folder:
            made = make(TOOLS[REFERENCE], bundle, data, samples, Path(folder)).path
            made.with_suffix(".bin").replace(path.with_suffix(".bin"))  # weights first: the .xml says it is complete
            made.replace(path)
    return path


def bake_frames(model: Path, preprocessing: Preprocessing) -> Path:
    """The model with OpenVINO's preprocessing, for uint8 `(N, H, W, C)`; kept beside `model`."""
    path = model.with_name(f"{model.stem}-frames.xml")
    return path if path.exists() else bake_preprocessing(model, preprocessing)


def open_request(model: Path, threads: int) -> Infer:
    """The model compiled with the settings of this project's engines; a call is a bare infer request.

    As in these engines, single images have their own compiled model.
    """
    core, settings = shared_core(), properties("int8", threads)
    single = core.read_model(model)
    fix_batch(single, 1)
    alone, several = (core.compile_model(source, "CPU", settings).create_infer_request() for source in (single, model))

    def infer(batch: FloatArray) -> FloatArray:
        request: Any = alone if len(batch) == 1 else several
        logits: FloatArray = next(iter(request.infer({0: batch}, share_inputs=True).values()))
        return logits

    return infer


def _recipe(bundle: Bundle, data: str, samples: int) -> str:
    """A hash of twelve hex digits over the float model, the preprocessing, the images and the versions."""
    manifest = bundle.manifest
    fp32 = manifest.files[manifest.variants["fp32"].file].sha256
    decides = repr((fp32, manifest.preprocessing.to_json(), sorted(peer_versions().items()), (data, samples)))
    return hashlib.sha256(decides.encode()).hexdigest()[:12]
