"""All steps on all networks; each finished group is kept."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from resnetrt.benchmarks.accuracy.content import content_hash
from resnetrt.benchmarks.peers.request import FloatNetwork, PeersRequest, open_subject
from resnetrt.benchmarks.peers.steps import RUN
from resnetrt.benchmarks.peers.store import ResultStore, Rows
from resnetrt.benchmarks.peers.tools import Tool
from resnetrt.benchmarks.peers.workshop import Workshop
from resnetrt.bundle import sha256_of
from resnetrt.calibration.images.data import open_dataset
from resnetrt.errors import UsageError
from resnetrt.progress import Say

TOOL_BY_TOOL = ("calibration", "fidelity")
# the arguments that decide the result of a step, besides those of its subject
_DECIDES = {
    "calibration": ("more_samples", "repeats"),
    "fidelity": ("eval_data", "eval_samples"),
    "latency": ("batches", "rounds", "min_block_s"),
    "frames": ("batches", "rounds", "min_block_s"),
}


def run_study(request: PeersRequest, results: ResultStore, say: Say) -> None:
    """Add to `results` what the request asks for and `results` lacks. Raises `UsageError` if it asks for no network."""
    networks: list[str | int] = [*request.networks, *request.depths]
    if not networks:
        raise UsageError("peers: expected at least one network or depth, found none; name them with --networks")
    for network in networks:
        subject = open_subject(request, network)
        content = _content(request, subject)
        with ExitStack() as stack:
            shop = Workshop(subject, request, stack)
            for step, tool in _groups(subject):
                tools = subject.tools if tool is None else (tool,)
                name = None if tool is None else tool.name
                arguments = _arguments(request, subject, step, tools) | content
                ran = results.group(step, subject.name, arguments, partial(_run, step, shop, tools), name)
                say(f"{subject.name} {step} {name or ''}: {'done' if ran else 'kept from an earlier run'}")


def _groups(subject: FloatNetwork) -> Iterator[tuple[str, Tool | None]]:
    """Steps with their tool; None for all tools side by side."""
    for step in subject.steps:
        yield from ((step, tool) for tool in (subject.tools if step in TOOL_BY_TOOL else (None,)))


def _run(step: str, shop: Workshop, tools: Sequence[Tool]) -> tuple[Rows, list[str]]:
    before = len(shop.left_out)
    rows = RUN[step](shop, tools)
    return rows, shop.left_out[before:]


def _content(request: PeersRequest, subject: FloatNetwork) -> dict[str, str | None]:
    """Hashes of the network and of all images: a result holds only for these."""
    manifest = subject.bundle.manifest
    calib = open_dataset(subject.calib, manifest.preprocessing, labelled=False)
    judged = None
    if "fidelity" in subject.steps:
        judged = open_dataset(request.eval_data, manifest.preprocessing, manifest.labels, classes=manifest.classes)
    return {
        "fp32_sha256": sha256_of(subject.bundle.variant_file("fp32")),
        "calib_sha256": content_hash(calib),
        "eval_sha256": None if judged is None else content_hash(judged),
    }


def _arguments(request: PeersRequest, subject: FloatNetwork, step: str, tools: Sequence[Tool]) -> dict[str, Any]:
    own = {name: getattr(request, name) for name in _DECIDES[step]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()} | {
        "calib": subject.calib,
        "samples": subject.samples,
        "threads": request.threads,
        "tools": [tool.name for tool in tools],
    }
