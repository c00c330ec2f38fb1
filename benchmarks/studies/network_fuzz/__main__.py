"""`python -m resnetrt.benchmarks.studies.network_fuzz`: networks nobody wrote, through the whole toolkit.

--networks N --seed S --out DIR    judge N networks; what DIR has already is not judged again
--replay FILE                      one shrunk failure again
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from resnetrt.benchmarks.studies.network_fuzz.campaign import Campaign, CampaignRequest, run_campaign
from resnetrt.benchmarks.studies.network_fuzz.spec import NetworkSpec
from resnetrt.benchmarks.studies.network_fuzz.verdict import FAILURES
from resnetrt.benchmarks.studies.network_fuzz.workers import WorkerProcess
from resnetrt.errors import ResnetrtError


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 if every network ended well, 1 if one did not, else the exit code of the error."""
    parser = argparse.ArgumentParser(
        prog="network_fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/network-fuzz"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds; what is left is for the next run")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for one network")
    parser.add_argument("--shrink", type=int, default=2, help="failures of each class to shrink")
    parser.add_argument("--replay", type=Path, help="a failure's .json: judge its network again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.replay:
            return _replay(options.replay, options.limit)
        request = CampaignRequest(
            options.networks, options.seed, options.out, options.workers, options.budget, options.limit, options.shrink
        )
        campaign = run_campaign(request)
    except ResnetrtError as error:
        _say(f"network_fuzz: {error}", sys.stderr)
        return error.exit_code
    if options.json:
        _say(json.dumps(campaign.to_json(), indent=2))
    else:
        _print(campaign, options.out)
    return 1 if any(campaign.ends[kind] for kind in FAILURES) else 0


def _replay(path: Path, limit_s: float) -> int:
    spec = NetworkSpec.from_json(json.loads(path.read_text())["spec"])
    worker = WorkerProcess(limit_s, Path("/dev/null"))
    try:
        verdict = worker.judge(spec)[1]
    finally:
        worker.close()
    _say(spec.listing())
    if verdict is None:
        _say("no network")
        return 2
    _say(json.dumps(verdict.to_json(), indent=2))
    return 1 if verdict.failures else 0


def _print(campaign: Campaign, out: Path) -> None:
    total = len(campaign.verdicts)
    _say(f"{total} networks: " + ", ".join(f"{count} {end}" for end, count in campaign.ends.most_common()))
    if campaign.unbuildable:
        _say(f"{len(campaign.unbuildable)} seeds gave no network")
    _table("failures", campaign.classes)
    _table("refusals", campaign.refusals)
    if campaign.shrunk:
        _say(f"\nshrunk failures are in {out / 'failures'}")


def _table(title: str, counts: Counter[str]) -> None:
    if counts:
        _say(f"\n{title}")
    for text, count in counts.most_common():
        _say(f"{count:6}  {text}")


def _say(text: str, stream: Any = None) -> None:
    print(text, file=stream or sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
