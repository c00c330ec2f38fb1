"""The four comparisons on one network; each returns rows, and lines that say what was left out and why."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from resnetrt.benchmarks.accuracy.comparison import compare_accuracy
from resnetrt.benchmarks.measure.timing import Schedule, Timing, measure, ratio
from resnetrt.benchmarks.peers.engines import bake_preprocessing, by_formula, open_file
from resnetrt.benchmarks.peers.isolated import Made
from resnetrt.benchmarks.peers.request import FloatNetwork, PeersRequest
from resnetrt.benchmarks.peers.store import Rows
from resnetrt.benchmarks.peers.tools import CPU_BACKENDS, REFERENCE, Tool
from resnetrt.benchmarks.peers.workshop import Workshop
from resnetrt.benchmarks.verify.reference import find_reference
from resnetrt.calibration.images.data import open_dataset, pixel_hash
from resnetrt.golden import Golden
from resnetrt.preprocess import Preprocessing, UInt8Array
from resnetrt.runtime.batches import OnSession
from resnetrt.runtime.session import Session

_PATIENCE_S = 15.0  # a calibration is not repeated after this time


def calibration(shop: Workshop, tools: Sequence[Tool]) -> Rows:
    """Time and memory of each tool, each in its own process."""
    subject, request = shop.subject, shop.request
    rows = []
    for tool in tools:
        numbers = [subject.samples]
        if request.more_samples is not None and tool.package == "resnetrt":
            numbers.append(request.more_samples)
        for samples in numbers:
            runs: list[Made] = []
            while len(runs) < request.repeats and sum(run.seconds for run in runs) < _PATIENCE_S:
                made = shop.make(tool, samples)
                if made is None:
                    break
                runs.append(made)
            rows += [_calibration_row(shop, tool, samples, runs)] if runs else []
    return rows


def _calibration_row(shop: Workshop, tool: Tool, samples: int, runs: list[Made]) -> dict[str, Any]:
    return {
        "network": shop.subject.name,
        "tool": tool.name,
        "dialect": tool.dialect,
        "samples": samples,
        "n": len(runs),
        "calibration_s": statistics.median(run.seconds for run in runs),
        "calibration_s_min": min(run.seconds for run in runs),
        "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
        "imports_rss_bytes": max(run.imports_rss_bytes for run in runs),
    }


def fidelity(shop: Workshop, tools: Sequence[Tool]) -> Rows:
    """SQNR, flips and drop against the eager model, every engine in one pass over the same images."""
    subject, request = shop.subject, shop.request
    manifest = subject.bundle.manifest
    opened = {f"{tool.name}|{backend}": (tool, backend, session) for tool, backend, session in shop.sessions(tools)}
    if not opened:
        return []
    dataset = open_dataset(request.eval_data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
    dataset = dataset.subset(min(request.eval_samples, len(dataset)))
    seen = open_dataset(subject.calib, manifest.preprocessing, labelled=False)
    hashes = [pixel_hash(frame) for batch in seen.batches(50) for frame in batch.frames]
    reference = find_reference(subject.bundle, subject.weights)
    engines = {name: OnSession(session, session.outputs[0].name) for name, (_, _, session) in opened.items()}
    rows = compare_accuracy(reference.infer, engines, dataset, manifest.preprocessing, hashes).rows()
    kept = ("n", "fp32_top1", "top1", "drop_pp", "drop_ci_pp", "flips_percent", "sqnr_db")
    return [
        _engine_names(subject.name, *opened[row["engine"]][:2])
        | {"reference": reference.name}
        | {name: row[name] for name in kept}
        for row in rows
    ]


def latency(shop: Workshop, tools: Sequence[Tool]) -> Rows:
    """The engine alone, on the input that it takes: rotated blocks; the ratio to `REFERENCE` is paired by rounds."""
    subject, request = shop.subject, shop.request
    opened: dict[str, tuple[str, str | None, str, Session]] = {}
    for made_by, backend, session in shop.sessions(tools):
        opened[f"{made_by.name}|{backend}"] = (made_by.name, made_by.dialect, backend, session)
    for backend in CPU_BACKENDS:
        opener = partial(_open_float, shop, backend)
        if (plain := shop.session(f"fp32|{backend}", opener)) is not None:
            opened[f"fp32|{backend}"] = ("fp32", None, backend, plain)
    rows = []
    for batch in request.batches:
        frames = _frames(subject, batch)
        calls = {name: partial(session.infer, session.prepare(frames)) for name, (*_, session) in opened.items()}
        timings = measure(calls, _schedule(request))
        for name, (tool, dialect, backend, _) in opened.items():
            names = {"network": subject.name, "tool": tool, "dialect": dialect, "backend": backend, "batch": batch}
            rows.append(names | _timing(timings, name))
    return rows


def _open_float(shop: Workshop, backend: str) -> Session:
    bundle = shop.subject.bundle
    path = bundle.variant_file("fp32")
    copy = shop.subject.folder / "fp32.onnx"
    copy.write_bytes(path.read_bytes())
    return open_file(copy, backend, shop.request.threads, bundle.manifest.preprocessing, "fp32")


def frames(shop: Workshop, tools: Sequence[Tool]) -> Rows:
    """From a decoded uint8 NHWC frame to logits, all in OpenVINO: who does the preprocessing, and how fast.

    Numpy appears twice: the formula as in common scripts, and this project's `normalize`, which works in place.
    """
    subject, request = shop.subject, shop.request
    preprocessing = subject.bundle.manifest.preprocessing
    ways: dict[str, tuple[str, str, Callable[[UInt8Array], object]]] = {}
    for tool, backend, session in shop.sessions(tools):
        if backend != "openvino":
            continue
        key = f"{tool.name}|{backend}"
        if tool.input == "uint8":
            ways[key] = (tool.name, "in the graph", session.infer_frames)
            continue
        ways[key] = (tool.name, "numpy", partial(_infer_after_formula, session, preprocessing))
        ways[f"{key}|normalize"] = (tool.name, "numpy, normalize", session.infer_frames)
        if tool.name == REFERENCE and (made := shop.made(tool)) is not None:
            model = bake_preprocessing(made.path, preprocessing)
            opener = partial(open_file, model, backend, request.threads, preprocessing)
            if (baked := shop.session("prepostprocessor", opener)) is not None:
                ways[f"{key}|frames"] = (tool.name, "PrePostProcessor", baked.infer_frames)
    rows = []
    for batch in request.batches:
        images = _frames(subject, batch)
        timings = measure({name: partial(how[2], images) for name, how in ways.items()}, _schedule(request))
        for name, (tool_name, how, _) in ways.items():
            names = {"network": subject.name, "tool": tool_name, "preprocessing": how, "batch": batch}
            rows.append(names | _timing(timings, name))
    return rows


def _infer_after_formula(session: Session, preprocessing: Preprocessing, images: UInt8Array) -> object:
    return session.infer(by_formula(images, preprocessing))


def _frames(subject: FloatNetwork, batch: int) -> UInt8Array:
    golden = Golden.of(subject.bundle).frames
    return np.ascontiguousarray(golden[np.arange(batch) % len(golden)])


def _schedule(request: PeersRequest) -> Schedule:
    return Schedule(rounds=request.rounds, min_block_s=request.min_block_s)


def _timing(timings: dict[str, Timing], name: str) -> dict[str, Any]:
    """`ratio` is paired by rounds, None with fewer than six; `quiet_ratio` is that of the fastest rounds.

    A busy machine disturbs the fastest rounds least.
    """
    reference = timings.get(f"{REFERENCE}|openvino")
    paired = None if reference is None else ratio(timings[name], reference)
    return timings[name].to_json() | {
        "ratio": paired and paired.value,
        "ratio_ci": paired and [paired.low, paired.high],
        "quiet_ratio": paired and reference and min(timings[name].round_medians_ms) / min(reference.round_medians_ms),
    }


def _engine_names(network: str, tool: Tool, backend: str) -> dict[str, Any]:
    return {"network": network, "tool": tool.name, "dialect": tool.dialect, "backend": backend, "input": tool.input}


RUN: dict[str, Callable[[Workshop, Sequence[Tool]], Rows]] = {
    "calibration": calibration,
    "fidelity": fidelity,
    "latency": latency,
    "frames": frames,
}
