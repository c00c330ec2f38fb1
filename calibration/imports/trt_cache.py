"""TensorRT's INT8 calibration cache, the text file of its calibrators up to TensorRT 10.

One header line `TRT-<version>-<calibrator>`, then a line a tensor, `name: hex`: the big-endian bits of a float32 scale,
which is the largest magnitude divided by 127. TensorRT itself takes a cache only from its own version and calibrator.
"""

import math
import re
import struct
from pathlib import Path

import numpy as np
import onnx_ir as ir

from resnetrt.atomic import write_file
from resnetrt.bundle import sha256_of
from resnetrt.calibration.graph.dialects import DIALECTS
from resnetrt.calibration.graph.structure import COMMUTING, scale_source, watched_values
from resnetrt.calibration.observe.ranges import check_method
from resnetrt.calibration.quantize.quantize import range_params
from resnetrt.calibration_record import BINS_PER_SIDE, CalibrationRecord, TensorStatistics
from resnetrt.errors import DataError, UsageError

_HEADER = re.compile(r"TRT-\d+-\w+")
_LINE = re.compile(r"(?P<name>.+): *(?P<bits>[0-9a-fA-F]{1,8})")
_CALIBRATORS = {"minmax": "MinMaxCalibration"}
_POOLS = ("GlobalAveragePool", "AveragePool", "ReduceMean")  # of non-negative values, non-negative


def header(method: str, version: str) -> str:
    """The first line for TensorRT `version` such as 8.6.1 (TRT-8601) or 10.3.0 (TRT-100300).

    Raises `UsageError` for anything else.
    """
    parts = version.split(".")
    if not 2 <= len(parts) <= 4 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"TensorRT version: expected three numbers such as 10.3.0, found {version!r}")
    major, minor, patch = (*map(int, parts[:3]), 0)[:3]
    number = major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch
    return f"TRT-{number}-{_CALIBRATORS.get(method, 'EntropyCalibration2')}"


def check_header(method: str, version: str) -> None:
    """Raise `UsageError` for an unknown range method or version, before any work is done."""
    check_method(method)
    header(method, version)


def write_cache(path: Path, record: CalibrationRecord, method: str = "entropy", version: str = "10.3.0") -> None:
    """Write `cache_text` to `path`, whole or not at all."""
    write_file(path, cache_text(record, method, version).encode())


def cache_text(record: CalibrationRecord, method: str = "entropy", version: str = "10.3.0") -> str:
    """The cache with the symmetric int8 scale of every recorded tensor, by range method `method`.

    Raises `UsageError` for a record of an equalized network: TensorRT would quantize the network as it is.
    """
    if record.equalization:
        raise UsageError("TensorRT cache: the calibration record is of an equalized network; calibrate --no-equalize")
    rules = DIALECTS["tensorrt"]
    scales = {name: range_params(record, name, rules, method).scale for name in record.tensors}
    lines = [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return "\n".join([header(method, version), *lines]) + "\n"


def read_cache(path: Path) -> dict[str, float]:
    """Scales by tensor name. Raises `DataError` naming the line that is not what the format says."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a TensorRT calibration cache, found {error}") from error
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        first_line = lines[0][:60] if lines else "an empty file"
        raise DataError(f"{path}: expected a first line such as TRT-100300-EntropyCalibration2, found {first_line!r}")
    scales = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            name, scale = _parse(line.strip(), f"{path}: line {number}")
            scales[name] = scale
    return scales


def _parse(line: str, where: str) -> tuple[str, float]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise DataError(f"{where}: expected `name: 8 hex digits`, found {line[:80]!r}")
    (scale,) = struct.unpack(">f", bytes.fromhex(match["bits"].rjust(8, "0")))
    if not (math.isfinite(scale) and scale > 0):
        raise DataError(f"{where}: scale of {match['name']} is {scale}; expected a positive number")
    return match["name"], scale


def record_from_cache(model_path: Path, path: Path) -> CalibrationRecord:
    """A record that holds nothing but the cache's ranges, for the FP32 model at `model_path`; use it with `minmax`.

    A tensor behind a ReLU starts at zero, for dialects with unsigned integers. Raises `UsageError` naming tensors that
    the cache lacks.
    """
    scales = read_cache(path)
    tensors, missing = {}, []
    for value in watched_values(ir.load(str(model_path)).graph):
        name, source = value.name or "", scale_source(value).name or ""
        scale = scales.get(name, scales.get(source))
        if scale is None:
            missing.append(name)
        else:
            tensors[name] = _statistics(127 * scale, _non_negative(value))
    if missing:
        raise UsageError(
            f"{path}: no scale for {len(missing)} of {len(missing) + len(tensors)} tensors, the first {missing[0]}; "
            "the cache is of another network or of another export"
        )
    return CalibrationRecord(f"TensorRT cache {path.name}", sha256_of(model_path), (), tensors)


def _statistics(amax: float, non_negative: bool) -> TensorStatistics:
    counts = np.zeros(2 * BINS_PER_SIDE, np.int64)
    bound = 2.0 ** (math.floor(math.log2(amax)) + 1)
    return TensorStatistics(0.0 if non_negative else -amax, amax, bound, counts, np.zeros(0), np.zeros(0))


def _non_negative(value: ir.Value) -> bool:
    producer = value.producer()
    while producer is not None and producer.op_type in (*COMMUTING, *_POOLS) and producer.inputs[0] is not None:
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "Relu"
