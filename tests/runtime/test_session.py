"""What holds for a session of every backend."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tiny_bundle
from gated_session import under_way

from resnetrt import parity
from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.runtime import Session, TensorSpec, load
from resnetrt.runtime.session import Array

# Loads a session with the number of threads given, keeps it busy, prints how many threads of the process worked.
COUNT_BUSY_THREADS = """
import sys, time
from pathlib import Path
import numpy as np
from resnetrt.runtime import load

def ticks():
    stats = {task.name: (task / "stat").read_text() for task in Path("/proc/self/task").iterdir()}
    fields = {name: text.rpartition(")")[2].split() for name, text in stats.items()}
    return {name: int(user) + int(system) for name, (*_, user, system) in ((n, f[:13]) for n, f in fields.items())}

with load(sys.argv[1], sys.argv[2], threads=int(sys.argv[3])) as session:
    batch = session.prepare(np.zeros((256, 16, 16, 3), np.uint8))
    session.infer(batch)
    before, end = ticks(), time.monotonic() + 1.5
    while time.monotonic() < end:
        session.infer(batch)
    after = ticks()
print(session.threads, sum(after[name] - before.get(name, 0) > 2 for name in after))
"""

# Forks with a loaded session; the child prints what becomes of it there, and loads one of its own.
FORK = """
import os, sys
import numpy as np
from resnetrt.errors import UsageError
from resnetrt.runtime import load
session = load(sys.argv[1], sys.argv[2], threads=int(sys.argv[3]))
images = np.ones((64, 3, 16, 16), np.float32)
expected = session.infer(images)["logits"]
child = os.fork()
if child == 0:
    for use in (session.infer, session.profile):
        try:
            use(images)
        except UsageError as error:
            print(error)
    session.close()
    with load(sys.argv[1], sys.argv[2], threads=int(sys.argv[3])) as own:
        print(np.array_equal(own.infer(images)["logits"], expected), flush=True)
    os._exit(7)  # as the processes of multiprocessing do
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(session.infer(images)["logits"], expected))
session.close()
"""


@pytest.fixture
def session(shared_bundle: Bundle, backend: str) -> Iterator[Session]:
    with load(shared_bundle, f"{backend}-fp32-cpu") as loaded:
        yield loaded


@pytest.fixture
def int8_session(shared_bundle: Bundle, backend: str) -> Iterator[Session]:
    with load(shared_bundle, f"{backend}-int8-cpu") as loaded:
        yield loaded


@pytest.fixture
def frames_session(shared_bundle: Bundle, backend: str) -> Iterator[Session]:
    with load(shared_bundle, f"{backend}-fp32.frames-cpu") as loaded:
        yield loaded


def images(count: int, seed: int = 5) -> Array:
    return tiny_bundle.PREPROCESSING.normalize(tiny_bundle.frames(count, seed))


class TestSession:
    def test_says_what_it_takes_and_gives(self, session: Session):
        assert session.inputs == (TensorSpec("input", "float32", (None, 3, 16, 16)),)
        assert session.outputs == (TensorSpec("logits", "float32", (None, 10)),)

    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_fp32_equals_the_reference(self, session: Session, count: int):
        outputs = session.infer(images(count))
        assert list(outputs) == ["logits"]
        assert outputs["logits"].dtype == np.float32
        np.testing.assert_allclose(outputs["logits"], tiny_bundle.reference(images(count)), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("count", [1, 3, 8])
    def test_int8_is_near_the_reference(self, int8_session: Session, count: int):
        logits = int8_session.infer(images(count))["logits"]
        measured = parity.compare(tiny_bundle.reference(images(count)), logits)
        assert 25 < measured.sqnr_db < 60  # above 60 dB it would not be INT8

    def test_takes_frames_where_preprocessing_is_inside(self, frames_session: Session):
        frames = tiny_bundle.frames(3)
        assert frames_session.inputs == (TensorSpec("input", "uint8", (None, 16, 16, 3)),)
        assert frames_session.prepare(frames) is frames
        logits = frames_session.infer(frames)["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(3, seed=0)), rtol=0, atol=1e-4)

    def test_infer_frames_is_the_same_for_both_kinds_of_input(self, session: Session, frames_session: Session):
        frames = tiny_bundle.frames(3)
        one, other = session.infer_frames(frames)["logits"], frames_session.infer_frames(frames)["logits"]
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(
        ("batch", "form"),
        [
            (np.zeros((2, 3, 16, 16)), r"found float64 \(2, 3, 16, 16\)"),
            (np.zeros((2, 3, 16, 16), np.uint8), r"found uint8 \(2, 3, 16, 16\)"),
            (np.zeros((2, 3, 16, 17), np.float32), r"found float32 \(2, 3, 16, 17\)"),
            (np.zeros((3, 16, 16), np.float32), r"found float32 \(3, 16, 16\)"),
            (np.zeros((1, 2, 3, 16, 16), np.float32), r"found float32 \(1, 2, 3, 16, 16\)"),
            (np.float32(1), "found numpy.float32"),
            (np.array(1, np.float32), r"found float32 \(\)"),
            ([[1.0]], "found builtins.list"),
            (None, "found builtins.NoneType"),
        ],
    )
    def test_another_dtype_or_shape_is_refused(self, session: Session, batch: Array, form: str):
        with pytest.raises(UsageError, match=rf"expected input float32 \(N, 3, 16, 16\), {form}"):
            session.infer(batch)

    def test_no_image_is_refused(self, session: Session):
        with pytest.raises(UsageError, match="expected at least one image"):
            session.infer(np.zeros((0, 3, 16, 16), np.float32))

    @pytest.mark.parametrize("frames", [np.zeros((1, 16, 15, 3), np.uint8), np.zeros((1, 16, 16, 3), np.float32), None])
    def test_other_frames_are_refused(self, session: Session, frames_session: Session, frames: Array):
        for each in (session, frames_session):
            with pytest.raises(UsageError, match=r"expected .*uint8 \(N, 16, 16, 3\), found"):
                each.infer_frames(frames)

    def test_the_input_is_only_read(self, session: Session, int8_session: Session, frames_session: Session):
        for each, batch in ((session, images(2)), (int8_session, images(2)), (frames_session, tiny_bundle.frames(2))):
            before = batch.copy()
            each.infer(batch)
            np.testing.assert_array_equal(batch, before)

    def test_outputs_belong_to_the_caller(self, session: Session):
        first = session.infer(images(2))["logits"]
        before = first.copy()
        session.infer(images(2, seed=6))
        np.testing.assert_array_equal(first, before)
        first[:] = 0
        np.testing.assert_array_equal(session.infer(images(2))["logits"], before)

    def test_any_memory_layout_will_do(self, session: Session):
        expected = session.infer(images(2))["logits"]
        strided = np.ascontiguousarray(images(2).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        read_only = images(2)
        read_only.flags.writeable = False
        for batch in (strided, read_only):
            np.testing.assert_array_equal(session.infer(batch)["logits"], expected)

    def test_a_reused_buffer_is_read_anew(self, session: Session):
        buffer = images(2)
        session.infer(buffer)
        buffer[:] = images(2, seed=6)
        expected = tiny_bundle.reference(images(2, seed=6))
        np.testing.assert_allclose(session.infer(buffer)["logits"], expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_is_deterministic(self, shared_bundle: Bundle, backend: str, precision: str):
        def run() -> Array:
            with load(shared_bundle, f"{backend}-{precision}-cpu") as session:
                once, again = (session.infer(images(8))["logits"] for _ in range(2))
                np.testing.assert_array_equal(once, again)
                return once

        np.testing.assert_array_equal(run(), run())

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_profile_names_layers_and_precision(self, shared_bundle: Bundle, backend: str, precision: str):
        with load(shared_bundle, f"{backend}-{precision}-cpu") as session:
            layers = session.profile(images(64), runs=3)
        assert sum(layer.ms for layer in layers) > 0
        assert all(layer.ms >= 0 and layer.name for layer in layers)
        assert [layer.precision for layer in layers if "Conv" in layer.op and layer.op != "Convert"] == [precision] * 2

    def test_profile_needs_runs(self, session: Session):
        with pytest.raises(UsageError, match="expected at least 1, found 0"):
            session.profile(images(1), runs=0)

    def test_profile_checks_the_batch(self, session: Session):
        with pytest.raises(UsageError, match="found uint8"):
            session.profile(tiny_bundle.frames(1))

    def test_a_closed_session_refuses(self, shared_bundle: Bundle, backend: str):
        with load(shared_bundle, f"{backend}-fp32-cpu") as session:
            assert not session.closed
        session.close()
        assert session.closed
        for use in (session.infer, session.profile):
            with pytest.raises(UsageError, match="the session is closed"):
                use(images(1))

    def test_a_second_thread_is_refused(self, session: Session):
        with under_way(session, images(2)) as answer:
            for use in (session.infer, session.profile):
                with pytest.raises(UsageError, match=r"load a session for each thread, or share a .*\.Batcher"):
                    use(images(2, seed=6))
        np.testing.assert_allclose(answer.result()["logits"], tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
        later = session.infer(images(2, seed=6))["logits"]  # one after the other they may be of any thread
        np.testing.assert_allclose(later, tiny_bundle.reference(images(2, seed=6)), rtol=0, atol=1e-4)

    def test_two_threads_never_get_each_others_answers(self, session: Session):
        batches = [images(2, seed) for seed in (5, 6)]
        expected = [session.infer(batch)["logits"] for batch in batches]
        wrong: list[int] = []

        def work(index: int) -> None:
            for call in range(300):
                try:
                    answer = session.infer(batches[index])["logits"]
                except UsageError:
                    continue
                if not np.allclose(answer, expected[index], atol=1e-4):
                    wrong.append(call)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_call_that_fails_leaves_the_session_free(self, session: Session):
        for _ in range(2):
            with pytest.raises(UsageError, match=r"found builtins\.NoneType"):
                session.infer(None)
        assert session.infer(images(1))["logits"].shape == (1, 10)

    def test_closing_waits_for_the_call_of_another_thread(self, session: Session):
        with under_way(session, images(2)) as answer:
            session.close()
            with pytest.raises(UsageError, match="the session is closed"):
                session.infer(images(2))
            assert not session._freed
        np.testing.assert_allclose(answer.result()["logits"], tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)
        assert session._freed

    @pytest.mark.parametrize("threads", [1, 2])
    def test_a_forked_process_is_told_and_can_load_its_own(self, shared_bundle: Bundle, backend: str, threads: int):
        command = [sys.executable, "-c", FORK, str(shared_bundle.path), f"{backend}-fp32-cpu", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if "the cores of this process" in done.stderr:
            pytest.skip("this process may use one core only")
        *refused, own, ended = done.stdout.splitlines()
        assert len(refused) == 2, done.stdout + done.stderr
        for line in refused:
            assert line.startswith(
                f"engine {backend}-fp32-cpu: it belongs to the process that made it, and this one was"
            )
        assert (own, ended, done.returncode) == ("True", "7 True", 0), done.stderr

    def test_outputs_outlive_the_session(self, shared_bundle: Bundle, backend: str):
        with load(shared_bundle, f"{backend}-fp32-cpu") as session:
            logits = session.infer(images(2))["logits"]
        np.testing.assert_allclose(logits, tiny_bundle.reference(images(2)), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_as_many_threads_work_as_were_asked_for(self, shared_bundle: Bundle, backend: str, threads: int):
        arguments = [str(shared_bundle.path), f"{backend}-fp32-cpu", str(threads)]
        command = [sys.executable, "-c", COUNT_BUSY_THREADS, *arguments]
        busy = 0
        for _ in range(20):  # on a busy machine a second thread may find nothing left to do, or little
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if threads == 2 and "the cores of this process" in done.stderr:
                pytest.skip("this process may use one core only")
            said, seen = map(int, done.stdout.split())
            assert (said, seen) in {(threads, 1), (threads, threads)}, done.stderr  # never more than asked for
            busy = max(busy, seen)
            if busy == threads:
                break
        assert busy == threads
