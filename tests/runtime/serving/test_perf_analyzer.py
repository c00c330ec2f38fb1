"""NVIDIA's perf_analyzer against our server.

It is taken from a wheel, never installed: `pip download --no-deps tritonclient==2.48.0`, unpack it, and set
RESNETRT_PERF_ANALYZER to its `perf_analyzer`. It needs libb64 and libcudart.so.12 (wheel nvidia-cuda-runtime-cu12; on
LD_LIBRARY_PATH), no GPU.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

PROGRAM = os.environ.get("RESNETRT_PERF_ANALYZER", "")


@pytest.mark.skipif(not Path(PROGRAM).is_file(), reason="RESNETRT_PERF_ANALYZER does not name a perf_analyzer")
@pytest.mark.parametrize(
    "options",
    [
        ["-i", "http"],
        ["-i", "grpc"],
        ["-i", "grpc", "--streaming"],
        ["-i", "grpc", "--shared-memory", "system", "-b", "2"],
        ["-i", "http", "--shared-memory", "system", "-b", "2"],
    ],
    ids=" ".join,
)
def test_it_measures(server, options):
    url = server.grpc if "grpc" in options else server.http
    command = [
        PROGRAM,
        "-m",
        "tiny",
        "-u",
        url,
        *options,
        "--concurrency-range",
        "2",
        "-p",
        "300",
        "-r",
        "3",
        "-s",
        "99",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(re.search(r"throughput: ([\d.]+) infer/sec", done.stdout)[1]) > 0
