"""A baseline of the shadow check from a run of the gate, which used far more images than the bundle stores."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from resnetrt.benchmarks.accuracy.outcomes import read_results
from resnetrt.bundle import Bundle
from resnetrt.errors import DataError
from resnetrt.runtime.shadow import Baseline, ShadowOptions, baseline_chance


def baseline_from_results(paths: Sequence[Path], bundle: Bundle, engine: str, options: ShadowOptions) -> Baseline:
    """The baseline of `engine` from the first results file of `evaluate` that evaluated exactly this engine file.

    Images with identical pixels count once. Raises `DataError` if a file is no results file, or if none has the engine.
    """
    manifest = bundle.manifest
    sha256 = manifest.files[manifest.engines[engine].file].sha256
    others = []
    for path in paths:
        results = read_results(path)
        if results.about["engines"].get(engine) != sha256:
            others.append(f"{path} has {', '.join(sorted(results.about['engines']))}")
            continue
        comparison = results.comparison
        _, once = np.unique(comparison.images, return_index=True)
        reference, candidate = comparison.reference.at(once), comparison.candidates[engine].at(once)
        noise = candidate.noise / reference.signal.clip(1e-30)
        chance = baseline_chance(options.alpha_each)
        return Baseline.of_samples(candidate.predicted != reference.predicted, noise, chance, f"results {path}")
    raise DataError(
        f"shadow baseline: expected outcomes of engine {engine} of {bundle.path} as its file is now, found none: "
        f"{'; '.join(others)}; evaluate it again with --results"
    )
