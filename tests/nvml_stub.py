"""A libnvidia-ml.so.1 with two GPUs, compiled here: one tells everything, one nothing but its temperature."""

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
#include <string.h>
static const char *first = "first", *second = "second";
static int started = 0, stopped = 0;
int nvmlInit_v2(void) { started = 1; return INIT; }
int nvmlShutdown(void) { stopped++; return 0; }
int stops(void) { return stopped; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return started ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, const char **device) {
    *device = index ? second : first;
    return index > 1 ? 2 : 0;
}
static const char *instance = "instance", *ids[] = {"GPU-0a", "GPU-14"};
int nvmlDeviceGetHandleByUUID(const char *uuid, const char **device) {
    *device = !strcmp(uuid, ids[0]) ? first : !strcmp(uuid, ids[1]) ? second : instance;
    return *device == instance && strcmp(uuid, "MIG-77") ? 6 : 0;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const char *device, const char **parent) {
    *parent = first;
    return device == instance ? 0 : 2;
}
int nvmlDeviceGetUUID(const char *device, char *uuid, unsigned length) {
    strncpy(uuid, ids[device != first], length);
    return length < 80 ? 7 : 0;
}
int nvmlDeviceGetTemperature(const char *device, unsigned sensor, unsigned *value) {
    *value = device == first ? 61 : 40;
    return sensor ? 2 : 0;
}
#define NUMBER(NAME, VALUE) int NAME(const char *device, unsigned *value) { \\
    *value = VALUE; return device == first ? 0 : 3; }
NUMBER(nvmlDeviceGetPowerUsage, 412500)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 700000)
#define CLOCK(NAME, SM, MEMORY) int NAME(const char *device, unsigned kind, unsigned *value) { \\
    *value = kind == 1 ? SM : kind == 2 ? MEMORY : 0; return device == first ? 0 : 3; }
CLOCK(nvmlDeviceGetClockInfo, 1755, 2619)
CLOCK(nvmlDeviceGetMaxClockInfo, 1980, 2619)
int nvmlDeviceGetCurrentClocksThrottleReasons(const char *device, unsigned long long *value) {
    *value = REASONS; return device == first ? 0 : 3; }
"""


def nvml_library(folder: Path, reasons: int = 0, init: int = 0) -> str:
    """The path of the stub; `reasons` are those of the first GPU's clocks, `init` is what starting it returns."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for a stub of NVML")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvml.c").write_text(_SOURCE)
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", f"-DREASONS={reasons}", f"-DINIT={init}"]
    subprocess.run([compiler, *flags, "-o", library, folder / "nvml.c"], check=True)
    return str(library)
