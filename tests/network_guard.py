"""Runs a command where there is no network and counts its attempts to reach one: python network_guard.py COMMAND...

Meant to be the first program of a network namespace of its own, whose loopback is down too. The kernel counts what it
finds no route for, whoever asks: Python, native code, a process that was forked. A name's look-up counts as well; an
IPv6 address that was not looked up does not.
"""

import json
import subprocess
import sys
from pathlib import Path


def attempts() -> int:
    """Packets and connections over IPv4 without a route since the namespace was made."""
    names, values = (line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines()[:2])
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"])


if __name__ == "__main__":
    code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=False).returncode
    print(json.dumps({"code": code, "attempts": attempts()}))
