"""Requests that depend on each other: a static camera is one scene, different pictures are many."""

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.runtime import load
from resnetrt.runtime.session import Array
from resnetrt.runtime.shadow import Baseline, Comparison, NoiseLimit, ShadowCheck, ShadowOptions, start_shadow
from resnetrt.runtime.shadow.scenes import Scenes

ENGINE, HANG_S = "onnxruntime-int8-cpu", 60.0


def camera(scene: int, count: int, seed: int = 0) -> Iterator[Array]:
    """`count` pictures of one scene, uint8 `(1, 64, 64, 3)`: noise, light, a shake, and something new on a tenth."""
    rng = np.random.default_rng([scene, seed])
    corners = np.random.default_rng(scene).integers(0, 256, (5, 5, 3)).astype(float)
    at = np.linspace(0, 3.999, 68)
    low, part = at.astype(int), (at % 1)[:, None, None]
    rows = corners[low] * (1 - part) + corners[low + 1] * part
    part = part.reshape(1, -1, 1)
    still = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    for _ in range(count):
        top, left = rng.integers(0, 5, 2)
        shown = still[top : top + 64, left : left + 64] * rng.uniform(0.9, 1.1) + rng.uniform(-12, 12)
        shown = shown + rng.normal(0, 8, shown.shape)
        top, left = rng.integers(0, 44, 2)
        shown[top : top + 20, left : left + 20] = rng.uniform(0, 255, 3)
        yield shown.clip(0, 255).astype(np.uint8)[None]


def counted(pictures: Iterator[Array], by_content: bool = True) -> int:
    scenes, count = Scenes(0.0, by_content), 0
    for index, picture in enumerate(pictures):
        if scenes.is_new(picture, float(index)):
            scenes.add(picture, float(index))
            count += 1
    return count


@pytest.mark.parametrize("scene", range(5))
def test_a_static_camera_is_one_scene_and_at_most_another(scene: int):
    assert counted(camera(scene, 60)) <= 2
    assert counted(camera(scene, 60), by_content=False) == 60


def test_different_pictures_are_scenes_of_their_own():
    assert counted(next(camera(scene, 1)) for scene in range(60)) >= 57


def test_floats_in_the_order_of_a_network_are_told_apart_as_frames_are():
    def as_floats(pictures: Iterator[Array]) -> Iterator[Array]:
        for picture in pictures:
            yield ((np.moveaxis(picture, -1, 1).astype(np.float32)) - 120) / 58

    assert counted(as_floats(camera(1, 40))) <= 2
    assert counted(as_floats(next(camera(scene, 1)) for scene in range(40))) >= 38


def test_a_dark_camera_is_one_scene_and_what_is_not_finite_is_none():
    rng = np.random.default_rng(0)
    assert counted(rng.integers(3, 5, (1, 64, 64, 3)).astype(np.uint8) for _ in range(30)) == 1
    assert counted(np.full((1, 3, 16, 16), np.nan, np.float32) for _ in range(3)) == 3


def test_one_request_an_interval_counts():
    scenes = Scenes(60.0, by_content=True)
    pictures = [next(camera(scene, 1)) for scene in range(4)]
    new = []
    for picture, at_s in zip(pictures, (100.0, 130.0, 161.0, 200.0), strict=True):
        new.append(scenes.is_new(picture, at_s))
        if new[-1]:
            scenes.add(picture, at_s)
    assert new == [True, False, True, False]


def check_of(options: ShadowOptions, baselines: list[Baseline]) -> ShadowCheck:
    """A check whose reference says class 1 to everything."""

    def reference(image: Array) -> Array:
        return np.array([[0.0, 1.0, 0.0]], np.float32)

    return ShadowCheck("e", [Comparison("it", reference, item) for item in baselines], options, output="logits")


SERVED = SimpleNamespace(record=SimpleNamespace(id="e"))  # what the check reads of a session


def offer(check: ShadowCheck, pictures: Iterator[Array], flip_of) -> None:
    for index, picture in enumerate(pictures):
        logits = np.array([[1.01 if flip_of(index) else 0.99, 1.0, 0.0]], np.float32)
        check.offer(picture, {"logits": logits}, SERVED)
        assert check.flush(HANG_S)


def by_hand(rate: float, limit: float) -> Baseline:
    return Baseline(rate, (NoiseLimit(limit, 0.9),), 32, "by hand")


@pytest.mark.parametrize("scenes", [True, False])
def test_one_borderline_scene_of_a_static_camera_is_no_drift(scenes: bool, caplog: pytest.LogCaptureFixture):
    check = check_of(ShadowOptions(1.0, interval_s=0.0, scenes=scenes, copy=False), [by_hand(0.2, 100.0)])
    with caplog.at_level(logging.WARNING, "resnetrt.runtime.shadow"):
        offer(check, camera(3, 40), lambda _: True)  # every frame flips
    state = check.state()
    check.close()
    assert (state.alarm is None) == scenes
    if scenes:
        assert (state.compared <= 2, state.compared + state.grouped) == (True, 40)
        assert "the last 30 samples look like ones that were compared" in caplog.text
        assert caplog.text.count("--no-shadow-scenes") == 1


def test_as_many_flips_on_different_scenes_are_drift():
    check = check_of(ShadowOptions(1.0, interval_s=0.0, copy=False), [by_hand(0.2, 100.0)])
    offer(check, (next(camera(scene, 1)) for scene in range(20)), lambda _: True)
    assert check.state().alarm is not None
    check.close()


def test_a_broken_copy_is_seen_in_a_scene_that_stays():
    """The copy answers bit for bit, so a frame that is like another is evidence beside it all the same."""
    exact = Baseline(0.001, (NoiseLimit(0.0, 0.001),), 32, "its copy, bit for bit")
    check = check_of(ShadowOptions(1.0), [by_hand(0.2, 100.0), exact])
    offer(check, camera(3, 20), lambda _: True)
    state = check.state()
    check.close()
    assert "beside it" in state.alarm.reason
    assert (state.compared, state.copy_compared) == (1, state.alarm.compared)
    assert state.unlike_copy == state.copy_compared


def test_a_request_without_a_reference_takes_no_ones_place(bundle: Bundle):
    with load(bundle, ENGINE) as session:
        check = start_shadow(bundle, session, ShadowOptions(1.0, interval_s=3600.0, copy=False))
        for images in (np.full((1, 3, 16, 16), np.nan, np.float32), session.prepare(tiny_bundle.frames(2, 3))):
            check.offer(images, session.infer(images), session)
            assert check.flush(HANG_S)
        state = check.state()
        check.close()
    assert (state.unusable, state.compared, state.grouped) == (1, 1, 1)
