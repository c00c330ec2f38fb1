"""Simulation of the shadow check: false alarms if requests depend on each other, and the effect of a larger baseline.

    python -m resnetrt.benchmarks.studies.scenes [--runs 30] [--seed 0]

A scene is a random picture; each request shows it with the noise, shake, light and passers-by of a static camera. The
sound engine flips on all requests of a scene or on none. The product's own code decides: `Scenes`, `Baseline`,
`RateEvidence`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from resnetrt.benchmarks.studies.command import print_study
from resnetrt.preprocess import UInt8Array
from resnetrt.runtime.shadow import Baseline, ShadowOptions, baseline_chance
from resnetrt.runtime.shadow.evidence import RateEvidence, upper_rate
from resnetrt.runtime.shadow.scenes import Scenes

SIZE, SAMPLES, OUTCOMES = 64, 300, 20
GAP_S = 33.0  # seconds between sampled requests: 30 frames a second at a rate of 0.001
OPTIONS = ShadowOptions(rate=0.001)
BASELINES = ((32, True), (1000, True), (1000, False))  # images, and whether the engine is as bad as allowed
Rng = np.random.Generator
Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """The scene of each sampled request: `length` requests of one scene after another, or `cameras` in turn forever."""

    name: str
    length: int = 1
    cameras: int = 0

    def scenes(self) -> npt.NDArray[np.int64]:
        """The number of the scene of each of `SAMPLES` requests."""
        each = np.arange(SAMPLES)
        return each % self.cameras if self.cameras else each // self.length


TRAFFIC = (
    Traffic("each request another scene"),
    Traffic("3 sampled requests of each scene", 3),
    Traffic("5 sampled requests of each scene", 5),
    Traffic("20 sampled requests of each scene", 20),
    Traffic("100 sampled requests of each scene", 100),
    Traffic("8 static cameras in turn", cameras=8),
)


def draw_noise(rng: Rng, count: int, runs: int) -> tuple[Flags, Values]:
    """Flips and noise `(runs, count)` of a sound engine: about 5 % flip, more often at high noise."""
    noise = rng.lognormal(-6, 1.0, (runs, count))
    return rng.random((runs, count)) < np.minimum(30 * noise, 1) * 0.5, noise


class Camera:
    """Pictures of scenes, uint8 `(1, SIZE, SIZE, 3)`; the same scene never looks quite the same."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._scenes: dict[int, npt.NDArray[np.float32]] = {}

    def picture(self, scene: int) -> UInt8Array:
        """A picture: noise of 8 levels, shake of 1 pixel, light and contrast up or down a tenth, a tenth of it new."""
        rng = self._rng
        if scene not in self._scenes:
            coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3)).astype(np.uint8))
            self._scenes[scene] = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
        still = np.roll(self._scenes[scene], tuple(rng.integers(-1, 2, 2)), (0, 1))
        shown = still * rng.uniform(0.9, 1.1) + rng.uniform(-12, 12) + rng.normal(0, 8, still.shape)
        side = int(SIZE * 0.1**0.5)
        top, left = rng.integers(0, SIZE - side, 2)
        shown[top : top + side, left : left + side] = rng.uniform(0, 255, 3)
        return shown.clip(0, 255).astype(np.uint8)[None]


def counted(traffic: Traffic, by_content: bool, rng: Rng) -> Flags:
    """Which of the sampled requests the check counts."""
    scenes, camera = Scenes(OPTIONS.interval_s, by_content), Camera(rng)
    times = np.cumsum(rng.exponential(GAP_S, SAMPLES))
    flags = np.zeros(SAMPLES, bool)
    for index, (scene, at_s) in enumerate(zip(traffic.scenes(), times, strict=True)):
        picture = camera.picture(int(scene)) if by_content else np.zeros((1, 1, 1, 1), np.uint8)
        flags[index] = scenes.is_new(picture, float(at_s))
        if flags[index]:
            scenes.add(picture, float(at_s))
    return flags


def false_alarms(traffic: Traffic, images: int, at_limit: bool, rules: Sequence[Flags], rng: Rng) -> list[float]:
    """For each rule, the share of runs in which a sound engine is called drifted; each run has a baseline of `images`.

    A rule says which requests count, `(runs, SAMPLES)`; each run is played with 20 draws of the engine's behaviour.
    With `at_limit`, its scenes disagree in every test exactly as often as the baseline allows at most: as bad as a
    sound engine may be.
    """
    runs, chance, of_scene = len(rules[0]) * OUTCOMES, baseline_chance(OPTIONS.alpha_each), traffic.scenes()
    flips, noise = draw_noise(rng, images, runs)
    baselines = [Baseline.of_samples(flips[run], noise[run], chance, "simulated") for run in range(runs)]
    rates = np.array([[baseline.flip_rate, *(limit.rate for limit in baseline.noise)] for baseline in baselines])
    if at_limit:
        draws = rng.random((runs, int(of_scene.max()) + 1))[:, of_scene]
        hits = draws[..., None] < rates[:, None, :]
    else:
        flip, usual = draw_noise(rng, int(of_scene.max()) + 1, runs)
        flip, noise = flip[:, of_scene], usual[:, of_scene] * rng.lognormal(0, 0.05, (runs, SAMPLES))
        limits = np.array([[limit.limit for limit in baseline.noise] for baseline in baselines])
        hits = np.concatenate([flip[..., None], noise[..., None] > limits[:, None, :]], 2)
    threshold = 2 / OPTIONS.alpha_each
    played = [highest(rates, hits, np.repeat(counts, OUTCOMES, 0)) for counts in rules]
    return [float((most >= threshold).mean()) for most in played]


def highest(rates: Values, hits: Flags, counts: Flags) -> Values:
    """For each run, the highest evidence ever reached.

    `rates` `(runs, tests)`, `hits` `(runs, n, tests)`, `counts` `(runs, n)` says which of the n are evidence.
    """
    order = np.argsort(~counts, axis=1, kind="stable")  # requests that count come first, in order
    hits, length = np.take_along_axis(hits, order[..., None], 1), counts.sum(1)
    tests, most = RateEvidence(rates), np.ones(len(rates))
    for step in range(int(length.max())):
        value = tests.add(hits[:, step]).mean(1)
        most = np.where(step < length, np.maximum(most, value), most)
    return most


def requests_to_find(images: int, runs: int, rng: Rng, before: float = 0.02, after: float = 0.1) -> list[int | None]:
    """Requests counted until the alarm if, after 500 sound ones, flips rise and noise stays the same; at most 2,000.

    The baseline has `images` images; None if no alarm came.
    """
    delays: list[int | None] = []
    for _ in range(runs):
        hits = int(rng.binomial(images, before))
        test = RateEvidence(upper_rate(hits, images, baseline_chance(OPTIONS.alpha_each)))
        least = 8 / OPTIONS.alpha_each - 3  # the mean of four tests, three of which show nothing, must reach 2 / alpha
        late = None
        for step in range(2500):
            value = float(test.add(rng.random() < (before if step < 500 else after)))
            if value >= least:
                late = step - 499
                break
        delays.append(late)
    return delays


def study(runs: int, seed: int) -> Iterator[str]:
    """The tables, line by line."""
    columns = "baseline | all counted | one a minute | one a scene and a minute | counted of 300"
    yield f"| traffic, {GAP_S:.0f} s between samples | engine, {columns} |"
    yield "|---|---|---|---|---|---|"
    for number, traffic in enumerate(TRAFFIC):
        rng = np.random.default_rng([seed, number])
        everything = np.ones((runs, SAMPLES), bool)
        by_time, by_both = (
            np.array([counted(traffic, content, rng) for _ in range(runs)]) for content in (False, True)
        )
        for images, at_limit in BASELINES:
            shares = false_alarms(traffic, images, at_limit, (everything, by_time, by_both), rng)
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            engine = "as bad as allowed" if at_limit else "5 % flips"
            yield f"| {traffic.name} | {engine}, {images} images | {cells} | {by_both.sum(1).mean():.0f} |"
    yield ""
    yield "| baseline | flips tolerated if none, if 2 % was seen | a step from 2 to 10 % of flips |"
    yield "|---|---|---|"
    for images in (32, 500, 1000, 2000, 10000):
        yield _step_line(images, runs, np.random.default_rng([seed, images]))


def _step_line(images: int, runs: int, rng: Rng) -> str:
    chance = baseline_chance(OPTIONS.alpha_each)
    none, some = (100 * upper_rate(hits, images, chance) for hits in (0, round(0.02 * images)))
    waits = sorted(wait for wait in requests_to_find(images, runs, rng) if wait is not None and wait > 0)
    when = f", median after {waits[len(waits) // 2]} that count" if waits else ""
    return f"| {images} images | {none:.1f} %, {some:.1f} % | {100 * len(waits) / runs:.0f} % found{when} |"


if __name__ == "__main__":
    print_study(study, "scenes", __doc__, 30, unit="runs")
