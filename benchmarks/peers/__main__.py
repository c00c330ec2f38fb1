"""python -m resnetrt.benchmarks.peers: compare quantizers, print one table, write JSON."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from resnetrt.benchmarks.peers.request import DEPTH_STEPS, STEPS, PeersRequest
from resnetrt.benchmarks.peers.store import ResultStore
from resnetrt.benchmarks.peers.study import run_study
from resnetrt.benchmarks.peers.table import render
from resnetrt.benchmarks.peers.tools import TOOLS
from resnetrt.errors import ResnetrtError


def main(words: Sequence[str] | None = None) -> int:
    """Run the comparison; the exit code is 0, or that of the error that ended it."""
    given = vars(_parser().parse_args(words))
    try:
        request = PeersRequest(**{item.name: given[item.name] for item in fields(PeersRequest)})
        results = ResultStore(given["out"], given["again"])
        run_study(request, results, _say)
        sys.stdout.write(render(results))
    except ResnetrtError as error:
        _say(f"Error: {error}")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    default = PeersRequest()
    parser = argparse.ArgumentParser("python -m resnetrt.benchmarks.peers", description=main.__doc__)
    add = parser.add_argument
    add("--networks", type=_words, default=default.networks, help="trained ones, such as cifar_resnet20,cifar_resnet56")
    add("--weights-dir", type=Path, help="their *.safetensors; default: the shipped weights")
    add("--calib", default=default.calib, help="images for calibration")
    add("--eval", dest="eval_data", default=default.eval_data, help="other images, to judge by")
    add("--samples", type=int, default=default.samples, help="images for calibration at most")
    add("--eval-samples", type=int, default=default.eval_samples, help="images to judge by at most")
    add("--more-samples", type=int, help="also calibrate this project on so many images")
    add("--depths", type=_integers, default=default.depths, help=f"ImageNet networks for {', '.join(DEPTH_STEPS)}")
    add("--depth-calib", default=default.depth_calib, help="images for their calibration")
    add("--depth-samples", type=int, default=default.depth_samples)
    add("--tools", type=_words, default=default.tools, help=f"of {', '.join(TOOLS)}; default: all")
    add("--steps", type=_words, default=default.steps, help=f"of {','.join(STEPS)}; default: all")
    add("--batches", type=_integers, default=default.batches)
    add("--rounds", type=int, default=default.rounds, help="timed blocks of each engine")
    add("--min-block-s", type=float, default=default.min_block_s, help="seconds of a block at least")
    add("--repeats", type=int, default=default.repeats, help="calibrations of each tool")
    add("--threads", type=int, default=default.threads, help="CPU threads of every engine")
    add("--work", type=Path, default=default.work, help="folder for models and engines")
    add("--out", type=Path, required=True, help="JSON; what it holds already and is up to date is kept")
    add("--again", action="store_true", help="measure anew what is there already")
    return parser


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _words(text)))


if __name__ == "__main__":
    sys.exit(main())
