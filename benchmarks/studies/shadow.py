"""How many compared requests the shadow check needs to detect one flipped bit in an engine's weights.

    python -m resnetrt.benchmarks.studies.shadow BUNDLE --engine ID --data D [--trials N]

For engines whose file is ONNX. Each trial flips one bit of one randomly chosen weight or scale, and gives the second
half of the images to the judges that serving uses: against the FP32 reference, with the baseline measured on the golden
images or on the first half, and against a copy of the engine without the fault.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from resnetrt.bundle import Bundle
from resnetrt.calibration.images.data import open_dataset
from resnetrt.errors import ResnetrtError, UsageError
from resnetrt.golden import Golden
from resnetrt.parity import sqnr_db
from resnetrt.preprocess import FloatArray
from resnetrt.runtime import load
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.shadow import Baseline, Judge, Reference, Sample, baseline_chance, onnx_reference, relative_noise
from resnetrt.runtime.shadow.baseline import measure_copy

_BATCH = 50
_ALPHA = 0.01 / 2  # for each comparison
FAULTS = {
    "int8 weight, sign bit": (7, 8),
    "int8 weight, any bit": (0, 8),
    "scale, exponent bit": (23, 31),
    "fp32 weight, top exponent bit": (30, 31),
    "fp32 weight, any exponent bit": (23, 31),
}


@dataclass(frozen=True, eq=False)
class Against:
    """What the answers are compared with: `expected` `(N, classes)`, and the baseline of a sound engine."""

    name: str
    expected: FloatArray
    baseline: Baseline


@dataclass(frozen=True)
class Row:
    """One kind of fault, compared with the reference or the copy; one entry per trial.

    `requests` were compared until the alarm, None if none came; `cost_db` is the loss of SQNR over all images.
    """

    fault: str
    against: "Against"
    requests: tuple[int | None, ...]
    cost_db: tuple[float, ...]

    def lines(self) -> Iterator[str]:
        """A line for each level of damage that occurred."""
        for low, high, degree in ((-np.inf, 1, "below 1 dB"), (1, 3, "1 to 3 dB"), (3, np.inf, "3 dB or more")):
            counts = [n for n, cost in zip(self.requests, self.cost_db, strict=True) if low <= cost < high]
            caught = sorted(n for n in counts if n is not None)
            if counts:
                when = f", after {caught[0]} to {caught[-1]}, median {caught[len(caught) // 2]}" if caught else ""
                where = f"{self.fault}; beside {self.against.name}; costs {degree}"
                yield f"{where}: {len(caught)} of {len(counts)} caught{when}"


def study(bundle: Bundle, engine: str, data: str, trials: int) -> Iterator[Row]:
    """Yield one row without a fault, then a row for each kind of fault for which the engine's file has bits."""
    manifest = bundle.manifest
    path = bundle.file(manifest.engines[engine].file)
    if path.suffix != ".onnx":
        raise UsageError(f"engine {engine}: expected one whose file is ONNX, found {path.name}")
    images, reference = _images(bundle, data), onnx_reference(bundle)
    expected, sound = _run(reference, images), _answers(bundle, engine, path, images)
    half = len(images) // 2
    measured = _baseline(expected[:half], sound[:half], "the first half")
    references = [
        Against("the reference, baseline of the golden images", expected[half:], _baseline_of_golden(bundle, engine)),
        Against(f"the reference, baseline of {half} images", expected[half:], measured),
        Against("a copy of the engine", sound[half:], _baseline_of_copy(bundle, engine)),
    ]
    for against in references:
        yield _row("no fault", against, images[half:], expected[half:], sound[half:], [sound[half:]])
    for fault in FAULTS:
        broken = [
            _answers(bundle, engine, faulty, images[half:])
            for faulty in _faulty_files(path, fault, trials, np.random.default_rng(0))
        ]
        for against in references if broken else ():
            yield _row(fault, against, images[half:], expected[half:], sound[half:], broken)


def _row(
    fault: str,
    against: Against,
    images: FloatArray,
    expected: FloatArray,
    sound: FloatArray,
    answers: Sequence[FloatArray],
) -> Row:
    requests, costs = [], []
    for logits in answers:
        judge = Judge(against.baseline, _ALPHA)
        for index in range(len(images)):
            at = slice(index, index + 1)
            judge.add(Sample(images[at], logits[at]), against.expected[at])
            if judge.reason is not None:
                break
        requests.append(None if judge.reason is None else judge.compared)
        costs.append(sqnr_db(expected, sound) - sqnr_db(expected, np.nan_to_num(logits, nan=1e18)))
    return Row(fault, against, tuple(requests), tuple(costs))


def _faulty_files(path: Path, fault: str, trials: int, rng: np.random.Generator) -> Iterator[Path]:
    """Copies of the ONNX file, each with one bit flipped; none if the file has no such bits."""
    model = onnx.load(path)
    scales = {node.input[1] for node in model.graph.node if node.op_type.endswith("Linear")}
    stored = [item for item in model.graph.initializer if _holds(fault, item, scales)]
    sizes = np.array([numpy_helper.to_array(item).size for item in stored], float)
    with tempfile.TemporaryDirectory(prefix="resnetrt-shadow-") as folder:
        for _ in range(trials if stored else 0):
            item = stored[int(rng.choice(len(stored), p=sizes / sizes.sum()))]
            before = onnx.TensorProto()
            before.CopyFrom(item)
            _flip(item, int(rng.integers(sizes[stored.index(item)])), int(rng.integers(*FAULTS[fault])))
            faulty = Path(folder) / "faulty.onnx"
            onnx.save(model, faulty)
            item.CopyFrom(before)
            yield faulty


def _holds(fault: str, item: onnx.TensorProto, scales: set[str]) -> bool:
    if fault.startswith("scale"):
        return item.name in scales and item.data_type == onnx.TensorProto.FLOAT
    kind = onnx.TensorProto.INT8 if fault.startswith("int8") else onnx.TensorProto.FLOAT
    return len(item.dims) == 4 and item.data_type == kind


def _flip(item: onnx.TensorProto, element: int, bit: int) -> None:
    values = numpy_helper.to_array(item).copy()
    words: npt.NDArray[np.unsignedinteger] = values.reshape(-1).view(f"u{values.itemsize}")
    words[element] ^= words.dtype.type(1 << bit)
    item.CopyFrom(numpy_helper.from_array(values, item.name))


def _images(bundle: Bundle, data: str) -> FloatArray:
    """Distinct images of the data, preprocessed, in a random order that is the same every time."""
    preprocessing = bundle.manifest.preprocessing
    dataset = open_dataset(data, preprocessing, labelled=False)
    order = dataset.select(np.random.default_rng(1).permutation(len(dataset)))
    return np.concatenate([preprocessing.normalize(batch.frames) for batch in order.batches(_BATCH)])


def _answers(bundle: Bundle, engine: str, path: Path, images: FloatArray) -> FloatArray:
    record = bundle.read_engine(engine)
    with find_backend(record.backend).load(path, record, 1) as session:
        output = bundle.manifest.output
        return np.concatenate([session.infer(part)[output] for part in _parts(images)])


def _run(reference: Reference, images: FloatArray) -> FloatArray:
    return np.concatenate([reference(part) for part in _parts(images)])


def _parts(images: FloatArray) -> list[FloatArray]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _baseline_of_golden(bundle: Bundle, engine: str) -> Baseline:
    golden = Golden.of(bundle)
    with load(bundle, engine, threads=1) as session:
        out = session.infer_frames(golden.frames)[bundle.manifest.output]
    return _baseline(onnx_reference(bundle)(bundle.manifest.preprocessing.normalize(golden.frames)), out, "golden")


def _baseline_of_copy(bundle: Bundle, engine: str) -> Baseline:
    with load(bundle, engine) as session, load(bundle, engine, threads=1) as copy:
        return measure_copy(session, copy, Golden.of(bundle), bundle.manifest.output, baseline_chance(_ALPHA))


def _baseline(expected: FloatArray, actual: FloatArray, source: str) -> Baseline:
    flips = expected.argmax(1) != actual.argmax(1)
    return Baseline.of_samples(flips, relative_noise(expected, actual), baseline_chance(_ALPHA), source)


def main(words: Sequence[str] | None = None) -> int:
    """Print a line for each kind of fault and each comparison."""
    parser = argparse.ArgumentParser("python -m resnetrt.benchmarks.studies.shadow", description=main.__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", help="default: the only one")
    parser.add_argument("--data", required=True, help="images like those that will be served")
    parser.add_argument("--trials", type=int, default=50, help="flipped bits of each kind")
    given = parser.parse_args(words)
    try:
        bundle = Bundle.open(given.bundle)
        for row in study(bundle, bundle.select_engine(given.engine), given.data, given.trials):
            sys.stdout.writelines(f"{line}\n" for line in row.lines())
            sys.stdout.flush()
    except ResnetrtError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
