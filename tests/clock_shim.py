"""A library that shifts the wall clock of a process and its children; monotonic clocks go on."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, id, now);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += SHIFT;
    return status;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
"""


def clock_library(folder: Path, shift_s: int) -> str:
    """The path for LD_PRELOAD of a library whose clock is `shift_s` seconds off."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for another clock")
    (folder / "clock.c").write_text(_SOURCE)
    library = folder / "clock.so"
    flags = ["-shared", "-fPIC", f"-DSHIFT={shift_s}L"]
    subprocess.run([compiler, *flags, "-o", library, folder / "clock.c"], check=True)
    return str(library)
