"""A baseline of the shadow check from a run of the gate, which has seen far more images than the bundle stores."""

from pathlib import Path

from resnetrt.benchmarks.outcomes import read_results
from resnetrt.errors import DataError
from resnetrt.runtime.shadow import Baseline, baseline_chance


def baseline_from_results(path: Path, engine: str, alpha: float) -> Baseline:
    """The baseline of `engine` from a file of `evaluate --results`, for a check with false-alarm chance `alpha`.

    Raises `DataError` if the file is none or does not hold the engine.
    """
    comparison = read_results(path).comparison
    found = comparison.candidates.get(engine)
    if found is None:
        known = ", ".join(sorted(comparison.candidates))
        raise DataError(f"results {path}: expected outcomes of engine {engine}, found {known}; evaluate that engine")
    flips = found.predicted != comparison.reference.predicted
    noise = found.noise / comparison.reference.signal.clip(1e-30)
    return Baseline.of_samples(flips, noise, baseline_chance(alpha), f"results {path}")
