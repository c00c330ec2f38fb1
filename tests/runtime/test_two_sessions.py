"""Several sessions in one process share its cores."""

import os
import subprocess
import sys

import pytest

# threads are bound, if at all, only while they compute
CODE = """
import os, sys, threading
import numpy as np
from resnetrt.runtime import load
before, stop = os.sched_getaffinity(0), threading.Event()
sessions = [load(sys.argv[1], sys.argv[2], threads=1) for _ in range(2)]
images = np.zeros((64, 3, 16, 16), np.float32)

def compute(session):
    while not stop.is_set():
        session.infer(images)

workers = [threading.Thread(target=compute, args=(session,)) for session in sessions]
for worker in workers:
    worker.start()
found = {frozenset(os.sched_getaffinity(int(name))) for _ in range(300) for name in os.listdir("/proc/self/task")}
stop.set()
assert found == {frozenset(before)}, f"threads are bound to a part of the cores: {found}"
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_of_small_sessions_are_not_bound_to_the_same_core(shared_bundle, backend):
    command = [sys.executable, "-c", CODE, str(shared_bundle.path), f"{backend}-int8-cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
