"""Telemetry of the packages that resnetrt uses: off before any of them is imported, here and in child processes.

No file is written for this: no consent file in the home folder, no user setting. A variable that the user has set
already is not changed.
"""

import os
import sys
from types import ModuleType
from typing import cast

VARIABLES = {
    # from 1.29 on, also on Linux: a device id and a database in ~/.cache/Microsoft, and a thread that sends them to
    # Microsoft; a process forked from this one waits forever for that thread when it ends (seen with 1.32)
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # timm depends on huggingface_hub
}
# If this package can't be imported, OpenVINO and NNCF assume that consent was not given. There is no variable for it;
# without this, `import openvino` writes to ~/intel and forks a process that looks up www.google-analytics.com.
PACKAGES = ("openvino_telemetry",)


def turn_off() -> None:
    """Set the `VARIABLES`, and make an import of the `PACKAGES` an `ImportError` unless they are imported already."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    for package in PACKAGES:
        cast(dict[str, ModuleType | None], sys.modules).setdefault(package, None)
