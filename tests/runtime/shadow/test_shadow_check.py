"""The live check on real engines: sound ones stay quiet, broken ones are caught, the hot path never waits."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from safetensors.numpy import load_file

from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.golden import Golden, outputs_file
from resnetrt.runtime import load
from resnetrt.runtime.session import Session
from resnetrt.runtime.shadow import (
    Alarm,
    Baseline,
    NoiseLimit,
    ShadowCheck,
    ShadowOptions,
    onnx_reference,
    start_shadow,
)
from resnetrt.runtime.shadow.baseline import measure_copy

INT8, FRAMES = "onnxruntime-int8-cpu", "onnxruntime-fp32.frames-cpu"
HANG_S = 120.0
EVERY = ShadowOptions(rate=1.0, queue_size=10_000, interval_s=0.0, scenes=False)


@pytest.fixture
def started() -> Iterator[Callable[..., ShadowCheck]]:
    """`start_shadow` whose checks are closed after the test."""
    checks: list[ShadowCheck] = []

    def start(*args: object, **options: object) -> ShadowCheck:
        checks.append(start_shadow(*args, **options))
        return checks[-1]

    yield start
    for check in checks:
        check.close()


def by_hand(rate: float, limit: float) -> Baseline:
    return Baseline(rate, (NoiseLimit(limit, rate),), 32, "by hand")


def serve(check: ShadowCheck, session: Session, count: int, seed: int, batch: int = 4) -> None:
    """Answer `count` new pictures and offer every batch; the arrays are reused, as a server does."""
    pictures = tiny_bundle.frames(count, seed)
    for start in range(0, count, batch):
        images = session.prepare(pictures[start : start + batch]).copy()
        outputs = session.infer(images)
        check.offer(images, outputs, session)
        images[:] = 0
        outputs["logits"][:] = np.nan


@pytest.mark.parametrize("engine", [INT8, "openvino-int8-cpu", "onnxruntime-fp32-cpu", FRAMES])
def test_a_sound_engine_with_its_honest_flips_is_quiet(bundle: Bundle, started, engine: str):
    with load(bundle, engine) as session:
        check = started(bundle, session, EVERY)
        serve(check, session, 800, seed=50)
        assert check.flush(HANG_S)
    state = check.state()
    assert state.alarm is None
    assert (state.seen, state.compared, state.dropped, state.failed) == (800, 800, 0, 0)
    if engine == INT8:
        assert state.flips > 0, "an INT8 engine without a flip shows nothing"


def broken_session(bundle: Bundle, engine: str, weight: np.ndarray, mask: int, stride: int) -> Session:
    """The engine after bits of a weight flipped: memory or a file that went bad after the start."""
    tiny_bundle.flip_bits(bundle, bundle.manifest.engines[engine].file, weight, mask, stride)
    return load(bundle, engine, selftest=False)


def test_one_flipped_exponent_bit_is_caught_and_saved(bundle: Bundle, started, tmp_path: Path):
    engine = "onnxruntime-fp32-cpu"
    alarms: list[Alarm] = []
    options = replace(EVERY, directory=tmp_path / "alarms", on_drift="unready")
    with load(bundle, engine) as sound:
        check = started(bundle, sound, options, on_alarm=alarms.append)
        serve(check, sound, 100, seed=60)
        assert check.flush(HANG_S)
    assert check.state().ready
    with broken_session(bundle, engine, tiny_bundle.weights()["conv.w"], 0x40, 10**9) as broken:
        serve(check, broken, 200, seed=61)
        assert check.flush(HANG_S)
    state = check.state()
    assert not state.ready
    assert alarms == [state.alarm]
    assert state.alarm.compared < 140
    record = json.loads(state.alarm.saved.read_text())
    assert (record["engine"], record["action"], record["reason"]) == (engine, "unready", state.alarm.reason)
    assert record["evidence"] >= record["threshold"]
    tensors = load_file(tmp_path / "alarms" / record["tensors"])
    np.testing.assert_array_equal(tensors["0/reference"], onnx_reference(bundle)(tensors["0/input"]))
    assert not np.array_equal(tensors["0/reference"], tensors["0/logits"])


def test_flipped_sign_bits_of_int8_weights_are_caught(bundle: Bundle, started):
    with load(bundle, INT8) as sound:
        check = started(bundle, sound, EVERY)
        serve(check, sound, 100, seed=62)
        assert check.flush(HANG_S)
        assert check.state().alarm is None
    weight = tiny_bundle.quantized_weight(bundle, "conv.w")
    with broken_session(bundle, INT8, weight, 0x80, 200) as broken:
        serve(check, broken, 400, seed=63)
        assert check.flush(HANG_S)
    assert check.state().alarm is not None


def test_one_flipped_bit_of_one_int8_weight_is_caught_beside_a_copy_only(bundle: Bundle, started, tmp_path: Path):
    options = replace(EVERY, directory=tmp_path)
    with load(bundle, INT8) as sound:
        checks = [started(bundle, sound, replace(options, copy=copy)) for copy in (True, False)]
    weight = tiny_bundle.quantized_weight(bundle, "conv.w")
    with broken_session(bundle, INT8, weight, 0x20, 10**9) as broken:
        for check in checks:
            serve(check, broken, 200, seed=64)
            assert check.flush(HANG_S)
    with_copy, without = (check.state() for check in checks)
    assert with_copy.alarm is not None
    assert "beside its own copy" in with_copy.alarm.reason
    assert with_copy.alarm.compared < 50
    assert json.loads(with_copy.alarm.saved.read_text())["baseline"]["source"] == "its copy, bit for bit"
    assert with_copy.unlike_copy > 0
    assert (without.alarm, without.unlike_copy) == (None, None)


@pytest.mark.parametrize("batch", [1, 3, 8, 25])
def test_a_sound_engine_answers_like_its_copy_in_every_batch_size(bundle: Bundle, started, batch: int):
    with load(bundle, "openvino-int8-cpu") as session:
        check = started(bundle, session, EVERY)
        serve(check, session, 100, seed=65, batch=batch)
        assert check.flush(HANG_S)
    assert (check.state().compared, check.state().unlike_copy) == (100, 0)


def test_an_engine_whose_answers_depend_on_the_batch_has_a_measured_baseline(bundle: Bundle):
    with load(bundle, INT8) as session, load(bundle, "onnxruntime-fp32-cpu") as other:
        baseline = measure_copy(
            session, other, Golden.of(bundle), "logits", 0.001
        )  # another engine: differs everywhere
    assert baseline.source == "its copy"
    assert baseline.noise[0].limit > 0
    assert baseline.noise[0].rate > 0.5


def test_outputs_that_are_not_finite_are_an_alarm_at_once(bundle: Bundle, started):
    with load(bundle, INT8) as session:
        check = started(bundle, session, EVERY)
        images = session.prepare(tiny_bundle.frames(1, 70))
        for _ in range(2):  # the same request, first sound: repeated, yet seen
            outputs = session.infer(images)
            check.offer(images, outputs, session)
            assert check.flush(HANG_S)
            assert check.state().alarm is None
        check.offer(images, {"logits": np.full((1, 10), np.nan, np.float32)}, session)
        assert check.flush(HANG_S)
    assert "not finite" in check.state().alarm.reason
    assert check.state().repeated == 1


def test_an_engine_that_is_worse_than_when_compiled_is_no_baseline(bundle: Bundle):
    weight = tiny_bundle.quantized_weight(bundle, "conv.w")
    with (
        broken_session(bundle, INT8, weight, 0x80, 40) as session,
        pytest.raises(CheckFailed, match=r"expected about \d+\.\d dB SQNR .* found"),
    ):
        start_shadow(bundle, session, EVERY)


def test_the_hot_path_never_waits_and_what_does_not_fit_is_counted(bundle: Bundle, started):
    gate, reference = threading.Event(), onnx_reference(bundle)
    began = threading.Event()

    def slow(images: np.ndarray) -> np.ndarray:
        began.set()
        assert gate.wait(HANG_S)
        return reference(images)

    baseline = by_hand(0.1, 0.1)
    options = replace(EVERY, queue_size=3)
    with load(bundle, INT8) as session:
        check = started(bundle, session, options, reference=slow, baseline=baseline)
        serve(check, session, 1, seed=80)
        assert began.wait(HANG_S)
        serve(check, session, 40, seed=81)  # returns although the reference is stuck
        state = check.state()
        assert (state.seen, state.dropped) == (41, 37)
        gate.set()
        assert check.flush(HANG_S)
        assert check.state().compared == 4


def test_the_rate_is_kept_whatever_the_batch(bundle: Bundle, started):
    baseline = by_hand(0.5, 1e9)
    options = ShadowOptions(rate=0.02, queue_size=10_000, interval_s=0.0, scenes=False)
    logits, image = np.zeros((7, 10), np.float32), np.zeros((7, 3, 16, 16), np.float32)
    with load(bundle, INT8) as session:
        check = started(bundle, session, options, reference=lambda x: np.zeros((1, 10), np.float32), baseline=baseline)
        for _ in range(10_000):
            check.offer(image, {"logits": logits}, session)
        assert check.flush(HANG_S)
    state = check.state()
    sampled = state.compared + state.repeated + state.dropped
    assert state.seen == 70_000
    assert abs(sampled - 1400) < 6 * np.sqrt(1400)
    assert state.compared == 1, "the same input is no new evidence"


def test_a_failing_reference_and_a_failing_callback_do_not_end_the_check(bundle: Bundle, started):
    calls = iter(range(10**6))

    def reference(images: np.ndarray) -> np.ndarray:
        if next(calls) == 0:
            raise RuntimeError("out of memory")
        return np.full((1, 10), 5.0, np.float32) * np.arange(10)

    def on_alarm(_alarm: Alarm) -> None:
        raise RuntimeError("the caller's fault")

    baseline = by_hand(0.05, 1e-6)
    with load(bundle, INT8) as session:
        check = started(bundle, session, EVERY, reference=reference, baseline=baseline, on_alarm=on_alarm)
        serve(check, session, 100, seed=90)
        assert check.flush(HANG_S)
    state = check.state()
    assert state.alarm is not None
    assert state.failed == 2


def test_a_full_disk_costs_the_evidence_and_nothing_else(bundle: Bundle, started, full_disk: Path):
    (full_disk / "fill").write_bytes(b"x" * (250 << 10))
    options = replace(EVERY, directory=full_disk / "alarms", on_drift="fallback")
    alarms: list[Alarm] = []
    with load(bundle, INT8) as session:
        check = started(bundle, session, options, baseline=by_hand(0.05, 1e-9), on_alarm=alarms.append)
        serve(check, session, 100, seed=94)
        assert check.flush(HANG_S)
    state = check.state()
    assert (state.alarm.saved, state.saved, state.save_failures, state.failed) == (None, 0, 1, 0)
    assert [alarm.action for alarm in alarms] == ["fallback"]


def test_a_request_that_is_not_finite_itself_is_no_evidence(bundle: Bundle, started):
    with load(bundle, INT8) as session:
        check = started(bundle, session, EVERY)
        images = np.full((1, 3, 16, 16), np.nan, np.float32)
        check.offer(images, session.infer(images), session)
        assert check.flush(HANG_S)
    assert (check.state().unusable, check.state().compared, check.state().alarm) == (1, 0, None)


def test_another_engine_is_not_judged_by_this_ones_baseline(bundle: Bundle, started):
    with load(bundle, INT8) as session, load(bundle, "onnxruntime-fp32-cpu") as other:
        check = started(bundle, session, EVERY)
        serve(check, other, 8, seed=91)
    assert check.state().seen == 0


def test_its_thread_has_the_lowest_priority(bundle: Bundle, started):
    import os

    seen: list[int] = []

    def reference(images: np.ndarray) -> np.ndarray:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return np.zeros((1, 10), np.float32)

    with load(bundle, INT8) as session:
        check = started(bundle, session, EVERY, reference=reference, baseline=by_hand(0.1, 1.0))
        serve(check, session, 1, seed=92)
        assert check.flush(HANG_S)
    assert seen == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


def test_closing_twice_is_fine_and_ends_the_thread(bundle: Bundle):
    with load(bundle, INT8) as session:
        check = start_shadow(bundle, session, EVERY)
        check.close()
        check.close()
        serve(check, session, 4, seed=93)
    assert check.state().seen == 0
    assert not [thread for thread in threading.enumerate() if thread.name == f"shadow-{INT8}"]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"rate": 0.0}, "--shadow-rate"),
        ({"rate": 1.5}, "--shadow-rate"),
        ({"rate": 0.1, "alpha": 0.0}, "false-alarm chance"),
        ({"rate": 0.1, "on_drift": "warm"}, "did you mean warn"),
        ({"rate": 0.1, "queue_size": 0}, "queue"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, object], match: str):
    with pytest.raises(UsageError, match=match):
        ShadowOptions(**wrong)


def test_too_few_golden_images_are_refused(bundle: Bundle):
    golden = Golden.of(bundle)
    with bundle.edit() as editor:
        editor.write("golden.safetensors", Golden(golden.frames[:5], golden.logits[:5]).to_bytes())
        editor.remove(outputs_file(bundle.manifest.engines[INT8].variant))
    with load(bundle, INT8) as session, pytest.raises(UsageError, match="at least 8 images, found 5"):
        start_shadow(bundle, session, EVERY)


def test_a_forked_check_says_so_instead_of_collecting_for_nobody(shared_bundle: Bundle, started):
    with load(shared_bundle, INT8, threads=1) as session:
        check = started(shared_bundle, session, EVERY)
        images = session.prepare(tiny_bundle.frames(1))
        outputs = session.infer(images)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            said = 0
            try:
                for use in (lambda: check.offer(images, outputs, session), lambda: check.flush(60)):
                    try:
                        use()
                    except UsageError as error:
                        said += "forked" in str(error)
                check.close()
            finally:
                os._exit(said)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
