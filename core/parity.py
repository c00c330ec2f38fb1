"""How far outputs are from the eager model's, and how far they may be."""

from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.fields import Fields


@dataclass(frozen=True)
class Parity:
    """Agreement of an output with its reference over `n` images.

    `max_abs` in logits; `relative_l2` = |out - ref| / |ref|; `cosine` is the smallest over the images;
    `sqnr_db` = 10 log10(sum ref^2 / sum (out - ref)^2), capped at 200 dB for exact equality;
    `top1_agreement` is the share of images with the same largest logit; `reference_peak` is max |ref|;
    `noise` is the largest error of the reference itself, in logits: 0 where it was not measured.
    """

    n: int
    max_abs: float
    relative_l2: float
    cosine: float
    sqnr_db: float
    top1_agreement: float
    reference_peak: float
    noise: float = 0.0

    def to_json(self) -> dict[str, float]:
        """Plain numbers under the field names."""
        return asdict(self)

    @classmethod
    def from_fields(cls, stored: Fields) -> "Parity":
        """The inverse of `to_json`. Bundles of older versions have no `noise`."""
        numbers = {item.name: stored.get(item.name, float) for item in fields(cls) if item.name not in ("n", "noise")}
        return cls(stored.get("n", int), noise=stored.optional("noise", float) or 0.0, **numbers)


@dataclass(frozen=True)
class Tolerance:
    """What a precision must reach; `reason` says where the numbers come from.

    `max_abs` holds for logits up to 10 in magnitude and grows in proportion beyond, as float32 rounding does.
    """

    reason: str
    max_abs: float = float("inf")
    sqnr_db: float = -float("inf")
    cosine: float = -1.0
    top1_agreement: float = 0.0


SQNR_CAP_DB = 200.0
TF32 = "tf32"  # not a variant's precision: what an FP32 engine computes in that may use it

# Two float32 computations have errors of similar size: inception_v3's eager logits are 9.6e-4 from float64, ONNX
# Runtime's 8.0e-4, and the two are 1.0e-3 apart. Where large terms cancel, ONNX Runtime was 2.2 to 4.2 times as far
# from eager as eager from float64. At twenty times the row (54 dB), float32 is no longer a reference.
_NOISES, _LOOSEST = 5.0, 20.0

# One table for every backend; a backend that needs other numbers gets its own row.
_TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("*", "fp32"): Tolerance(
        "float32 sums in another order: 1e-4 of logits of order 1 to 10 over 100 layers; where eager's own float32 is "
        "further than that from float64, five times its error, at most 20 times the row",
        *(1e-4, 80.0, 0.99999, 0.99),
    ),
    ("*", "fp16"): Tolerance(
        "10-bit mantissa, 2^-11 relative a rounding, some hundred roundings", sqnr_db=35.0, cosine=0.999
    ),
    # an FP32 engine whose products are allowed TF32: 66 dB and 3e-3 from eager on the embedded network, 59 dB on
    # ResNet-18, emulated, so never within FP32's row; deep networks of random weights amplify it as they do FP16's
    ("*", TF32): Tolerance(
        "factors of products are rounded to FP16's 10-bit mantissa, sums are float32",
        sqnr_db=35.0,
        cosine=0.999,
    ),
    ("*", "bf16"): Tolerance("7-bit mantissa, 2^-8 relative a rounding", sqnr_db=20.0, cosine=0.99),
    ("*", "fp8"): Tolerance("3-bit mantissa", sqnr_db=8.0, cosine=0.9),
    ("*", "int8"): Tolerance(
        "trained ResNets reach 20 to 32 dB; below 12 dB a scale or a layer is broken", sqnr_db=12.0, cosine=0.95
    ),
}


# An engine compared with its own variant: the file is the same, so only kernels differ. Measured with ONNX Runtime and
# OpenVINO on ResNet-20 and -56 (CIFAR-10), ResNet-20 (Fashion-MNIST), ResNet-18 (random weights) and small networks.
_SAME_FILE: dict[tuple[str, str], Tolerance] = {
    ("*", "fp32"): Tolerance("float32 sums in another order: 121 dB and more were measured", sqnr_db=80.0),
    ("*", "fp16"): Tolerance("kernels round elsewhere than the file: 61 dB between ways to round", sqnr_db=50.0),
    ("*", TF32): Tolerance("the file itself is float32, so as beside eager", sqnr_db=35.0),
    ("*", "bf16"): Tolerance("as FP16 with 3 bits less, 18 dB", sqnr_db=32.0),
    ("*", "fp8"): Tolerance("the file itself is 16 to 21 dB from eager", sqnr_db=12.0),
    ("*", "int8"): Tolerance(
        "values at rounding edges fall to either side: 39 dB on 56 layers, 53 and more on small networks; a pool that "
        "counted other pixels left 14 dB, sums that saturated 19 and 25 dB",
        sqnr_db=30.0,
    ),
}
_TWO_ROUNDINGS_DB = 3.0


def tolerance(backend: str, precision: str) -> Tolerance:
    """The row for `backend` and `precision` beside eager; the backend's own row before the general one.

    Raises `UsageError` for a precision that no row is for.
    """
    return _row(_TOLERANCES, backend, precision)


def tolerance_of_same_file(backend: str, precision: str) -> Tolerance:
    """The row for an engine beside the variant that it was compiled from; raises as `tolerance` does."""
    return _row(_SAME_FILE, backend, precision)


def _row(table: dict[tuple[str, str], Tolerance], backend: str, precision: str) -> Tolerance:
    if ("*", precision) not in table:
        raise UsageError.unknown("precision", precision, {known for _, known in table} - {TF32})
    return table.get((backend, precision)) or table[("*", precision)]


def compare(reference: npt.ArrayLike, output: npt.ArrayLike, noise: float = 0.0) -> Parity:
    """Compare `(N, classes)` arrays; `noise` is the reference's own largest error.

    Raises `CheckFailed` for other shapes, no images, or values that aren't finite.
    """
    ref, out = np.asarray(reference, np.float64), np.asarray(output, np.float64)
    _check_shapes(ref, out)
    if ref.ndim < 2:
        raise CheckFailed(f"parity: expected outputs of shape (N, classes), found {out.shape}")
    if ref.size == 0:
        raise CheckFailed("parity: nothing to compare, zero images")
    ref, out = ref.reshape(len(ref), -1), out.reshape(len(out), -1)
    for values, what in ((ref, "reference outputs"), (out, "outputs")):
        if not np.isfinite(values).all():
            raise CheckFailed(
                f"parity: {np.count_nonzero(~np.isfinite(values))} of {values.size} {what} are NaN or infinite"
            )
    error = out - ref
    norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(out, axis=1)
    same = (ref == out).all(1).astype(np.float64)  # no direction: zeros equal zeros only
    cosines = np.divide((ref * out).sum(1), norms, out=same, where=norms > 0)
    return Parity(
        n=len(ref),
        max_abs=float(np.abs(error).max()),
        relative_l2=float(np.linalg.norm(error) / max(float(np.linalg.norm(ref)), 1e-30)),
        cosine=float(cosines.min()),
        sqnr_db=sqnr_db(ref, out),
        top1_agreement=float((ref.argmax(1) == out.argmax(1)).mean()),
        reference_peak=float(np.abs(ref).max()),
        noise=noise,
    )


def sqnr_db(reference: npt.ArrayLike, output: npt.ArrayLike) -> float:
    """Signal to quantization noise ratio in dB, at most `SQNR_CAP_DB`. Raises `CheckFailed` for other shapes."""
    ref, out = np.asarray(reference, np.float64), np.asarray(output, np.float64)
    _check_shapes(ref, out)
    signal, noise = float(np.square(ref).sum()), float(np.square(out - ref).sum())
    if noise <= 0:
        return SQNR_CAP_DB
    return float(min(10 * np.log10(max(signal, 1e-300) / noise), SQNR_CAP_DB))


def failures(parity: Parity, limit: Tolerance) -> list[str]:
    """Each limit that `parity` breaks, in words; empty if it passes. NaN breaks every limit."""
    max_abs = limit.max_abs * max(1.0, parity.reference_peak / 10)
    looser = min(max(1.0, _NOISES * parity.noise / max_abs), _LOOSEST)  # 1 where max_abs is infinite
    max_abs, sqnr, cosine = max_abs * looser, limit.sqnr_db - 20 * np.log10(looser), 1 - (1 - limit.cosine) * looser**2
    checks = [
        (not parity.max_abs <= max_abs, f"max abs error {parity.max_abs:.2e} > {max_abs:.1e}"),
        (not parity.sqnr_db >= sqnr, f"SQNR {parity.sqnr_db:.1f} dB < {sqnr:.0f} dB"),
        (not parity.cosine >= cosine, f"cosine {parity.cosine:.5f} < {cosine:.5g}"),
        (
            not parity.top1_agreement >= limit.top1_agreement,
            f"top-1 agreement {parity.top1_agreement:.1%} < {limit.top1_agreement:.0%}",
        ),
    ]
    return [text for broken, text in checks if broken]


def require(parity: Parity, backend: str, precision: str, what: str, advice: str = "") -> None:
    """Raise `CheckFailed` naming `what` and the numbers, and the `advice`, if `parity` is outside the tolerance."""
    _require(parity, tolerance(backend, precision), f"{what}: parity with the eager model", advice)


def require_same_file(
    parity: Parity, variant: Parity, backend: str, precision: str, what: str, advice: str = ""
) -> None:
    """As `require`, for an engine beside the outputs of the variant that it was compiled from.

    `variant` is the variant's own parity with eager. If rounding disturbs a network more than most, kernels that round
    at different places differ like two independent roundings: 3 dB more.
    """
    limit = tolerance_of_same_file(backend, precision)
    limit = replace(limit, sqnr_db=min(limit.sqnr_db, variant.sqnr_db - _TWO_ROUNDINGS_DB))
    _require(parity, limit, f"{what}: parity with its own variant", advice)


def _require(parity: Parity, limit: Tolerance, what: str, advice: str) -> None:
    if broken := failures(parity, limit):
        raise CheckFailed(
            f"{what} failed over {parity.n} golden images: {'; '.join(broken)}" + (f"; {advice}" if advice else "")
        )


def _check_shapes(ref: npt.NDArray[np.float64], out: npt.NDArray[np.float64]) -> None:
    if ref.shape != out.shape:
        raise CheckFailed(f"parity: expected outputs of shape {ref.shape}, found {out.shape}")
