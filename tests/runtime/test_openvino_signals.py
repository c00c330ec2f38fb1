"""OpenVINO gives threads an alternate signal stack; it must not go away under them."""

import subprocess
import sys

CODE = """
import signal, sys, threading
from resnetrt.runtime import load
sessions = [load(sys.argv[1], "openvino-int8-cpu", threads=1) for _ in range(2)]
for session in sessions:
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join()
del session, sessions, closer
seen = []
signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
signal.raise_signal(signal.SIGTERM)
assert seen == [signal.SIGTERM]
"""


def test_a_signal_after_another_thread_closed_the_last_session(shared_bundle):
    command = [sys.executable, "-c", CODE, str(shared_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
