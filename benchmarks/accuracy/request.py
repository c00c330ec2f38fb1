"""What to evaluate, and how its images and engines are opened."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from resnetrt.benchmarks.accuracy.comparison import Engine
from resnetrt.benchmarks.accuracy.gate import Budget
from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import Dataset, open_dataset
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.runtime import load
from resnetrt.runtime.batches import OnSession


@dataclass(frozen=True)
class GateRequest:
    """What to evaluate. Without `budget` there is no verdict. Outcomes are stored in `results`, and resumed from there.

    `baseline` is an older results file or JSON, judged by the same budget; `renamed` maps engines to their older names.
    `group_by` says which images belong together, see `accuracy.groups`. `ray` is the address of a cluster that runs the
    batches, see `cluster.evaluate`.
    """

    data: str
    engines: Sequence[str] = ()
    weights: Path | None = None
    samples: int | None = None
    allow_overlap: bool = False
    budget: Budget | None = None
    results: Path | None = None
    baseline: Path | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    group_by: str | None = None
    batch_size: int = 50
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.baseline is not None and self.budget is None:
            raise UsageError("--baseline: expected a budget to judge the change by; add --max-drop or --min-relative")
        if self.renamed and self.baseline is None:
            raise UsageError("--baseline-engine: expected --baseline, found none")


def open_images(bundle: Bundle, request: GateRequest) -> Dataset:
    """The images that `request` names, as many as it asks for."""
    manifest = bundle.manifest
    nested = request.group_by is not None
    recipe = manifest.preprocessing
    dataset = open_dataset(request.data, recipe, manifest.labels, classes=manifest.classes, nested=nested)
    if request.samples is not None and request.samples < len(dataset):
        return dataset.subset(request.samples)
    return dataset


@contextmanager
def open_engines(
    bundle: Bundle, names: Sequence[str], judged: bool
) -> Iterator[tuple[dict[str, Engine], dict[str, str]]]:
    """Engines by name, and the message of each failed self-test; unless `judged`, a failure is raised."""
    faults: dict[str, str] = {}
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in names:
            try:
                session = load(bundle, name)
            except CheckFailed as error:
                if not judged:
                    raise
                faults[name] = str(error)
                session = load(bundle, name, selftest=False)
            engines[name] = OnSession(stack.enter_context(session), bundle.manifest.output)
        yield engines, faults
