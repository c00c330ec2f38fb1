import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnetrt.errors import CheckFailed, UsageError
from resnetrt.parity import SQNR_CAP_DB, Parity, Tolerance, compare, failures, require, sqnr_db, tolerance

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")
TF32_EMULATED = {"max_abs": 3.0e-3, "sqnr_db": 66.1, "cosine": 0.9999997}  # the embedded network, random images

logits = arrays(np.float32, (5, 4), elements=st.floats(-20, 20, width=32).map(lambda x: x if abs(x) > 1e-3 else 1e-3))


def passing(**changes: float) -> Parity:
    exact = Parity(n=32, max_abs=0, relative_l2=0, cosine=1, sqnr_db=SQNR_CAP_DB, top1_agreement=1, reference_peak=5)
    return replace(exact, **changes)


def test_by_hand():
    parity = compare([[3.0, 4.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]])
    assert parity == Parity(
        n=2,
        max_abs=1.0,
        relative_l2=pytest.approx(1 / math.sqrt(29)),
        cosine=pytest.approx(1.0),
        sqnr_db=pytest.approx(10 * math.log10(29)),
        top1_agreement=1.0,
        reference_peak=4.0,
    )


@given(logits, logits)
def test_formulas_against_plain_loops(ref: np.ndarray, out: np.ndarray):
    parity = compare(ref, out)
    pairs = [(float(a), float(b)) for a, b in zip(ref.ravel(), out.ravel(), strict=True)]
    signal, noise = sum(a * a for a, _ in pairs), sum((a - b) ** 2 for a, b in pairs)
    cosines = []
    for a, b in zip(ref.astype(float), out.astype(float), strict=True):
        cosines.append(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))
    assert parity.n == 5
    assert parity.max_abs == max(abs(a - b) for a, b in pairs)
    assert parity.relative_l2 == pytest.approx(math.sqrt(noise / signal), abs=1e-12)
    assert parity.cosine == pytest.approx(min(cosines), abs=1e-9)
    expected = SQNR_CAP_DB if noise == 0 else min(SQNR_CAP_DB, 10 * math.log10(signal / noise))
    assert parity.sqnr_db == pytest.approx(expected, abs=1e-9)
    assert parity.top1_agreement == sum(int(a.argmax() == b.argmax()) for a, b in zip(ref, out, strict=True)) / 5
    assert parity.reference_peak == max(abs(a) for a, _ in pairs)


@given(logits)
def test_equal_outputs_are_perfect_and_pass_everything(ref: np.ndarray):
    parity = compare(ref, ref.copy())
    assert (parity.max_abs, parity.relative_l2, parity.sqnr_db, parity.top1_agreement) == (0, 0, 200, 1)
    assert parity.cosine == pytest.approx(1)
    for precision in PRECISIONS:
        assert failures(parity, tolerance("onnxruntime", precision)) == []


def test_json_is_plain_numbers():
    record = compare([[1.0, 2.0]], [[1.0, 2.1]]).to_json()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {
        "n",
        "max_abs",
        "relative_l2",
        "cosine",
        "sqnr_db",
        "top1_agreement",
        "reference_peak",
        "noise",
    }


def test_an_engine_that_gives_zeros_has_no_direction():
    assert compare([[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0], [0.0, 0.0]]).cosine == 0
    assert compare([[0.0, 0.0]], [[0.0, 0.0]]).cosine == 1


def test_a_reference_of_zeros_stays_finite():
    parity = compare([[0.0, 0.0]], [[0.0, 1.0]])
    assert all(math.isfinite(value) for value in parity.to_json().values())
    assert parity.sqnr_db < 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite(bad: float):
    out = np.ones((2, 3))
    out[1, 2] = bad
    with pytest.raises(CheckFailed, match=r"parity: 1 of 6 outputs are NaN or infinite"):
        compare(np.ones((2, 3)), out)


def test_reference_that_is_not_finite_is_named_as_such():
    ref = np.ones((2, 3))
    ref[0] = np.nan
    with pytest.raises(CheckFailed, match=r"parity: 3 of 6 reference outputs are NaN or infinite"):
        compare(ref, np.ones((2, 3)))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3, 2), (6,), (2, 3, 1)])
def test_other_shapes_are_refused_and_never_broadcast(shape: tuple[int, ...]):
    with pytest.raises(CheckFailed, match=r"parity: expected outputs of shape \(2, 3\), found \("):
        compare(np.ones((2, 3)), np.ones(shape))
    with pytest.raises(CheckFailed, match=r"parity: expected outputs of shape"):
        sqnr_db(np.ones((2, 3)), np.ones(shape))


def test_one_axis_is_no_batch():
    with pytest.raises(CheckFailed, match=r"parity: expected outputs of shape \(N, classes\), found \(3,\)"):
        compare(np.ones(3), np.ones(3))


@pytest.mark.parametrize("shape", [(0, 10), (3, 0)])
def test_comparing_nothing_is_a_failure(shape: tuple[int, int]):
    with pytest.raises(CheckFailed, match="parity: nothing to compare, zero images"):
        compare(np.ones(shape), np.ones(shape))


def test_table_has_a_reason_everywhere_and_gets_looser_with_the_precision():
    rows = [tolerance("onnxruntime", precision) for precision in PRECISIONS[:4]]
    assert all(row.reason for row in rows)
    for tighter, looser in pairwise(rows):
        assert tighter.max_abs <= looser.max_abs or looser.max_abs == math.inf
        assert tighter.sqnr_db > looser.sqnr_db
        assert tighter.cosine > looser.cosine
        assert tighter.top1_agreement >= looser.top1_agreement
    assert tolerance("onnxruntime", "int8").sqnr_db < tolerance("onnxruntime", "bf16").sqnr_db


def test_fp32_tolerance_is_the_projects_promise():
    assert tolerance("onnxruntime", "fp32").max_abs <= 1e-4


def test_tf32_has_a_row_of_its_own_as_it_can_not_meet_that_of_fp32():
    parity = passing(**TF32_EMULATED)
    assert failures(parity, tolerance("tensorrt", "fp32"))
    assert failures(parity, tolerance("tensorrt", "tf32")) == []
    assert failures(passing(sqnr_db=30.0), tolerance("tensorrt", "tf32"))


def test_unknown_precision():
    with pytest.raises(UsageError, match="unknown precision 'int4'; did you mean int8"):
        tolerance("onnxruntime", "int4")


def test_failures_name_every_broken_limit():
    limit = Tolerance("test", max_abs=0.5, sqnr_db=20, cosine=0.9, top1_agreement=0.9)
    broken = passing(max_abs=0.75, sqnr_db=10.04, cosine=0.5, top1_agreement=0.25)
    assert failures(broken, limit) == [
        "max abs error 7.50e-01 > 5.0e-01",
        "SQNR 10.0 dB < 20 dB",
        "cosine 0.50000 < 0.9",
        "top-1 agreement 25.0% < 90%",
    ]


@pytest.mark.parametrize("changes", [{"max_abs": 0.51}, {"sqnr_db": 19.9}, {"cosine": 0.89}, {"top1_agreement": 0.89}])
def test_each_limit_can_fail_alone(changes: dict[str, float]):
    limit = Tolerance("test", max_abs=0.5, sqnr_db=20, cosine=0.9, top1_agreement=0.9)
    assert failures(passing(), limit) == []
    assert len(failures(passing(**changes), limit)) == 1


@pytest.mark.parametrize("field", ["max_abs", "sqnr_db", "cosine", "top1_agreement"])
def test_nan_passes_no_limit(field: str):
    assert failures(passing(**{field: math.nan}), tolerance("onnxruntime", "fp32"))


def test_exactly_at_the_limits_passes():
    limit = Tolerance("test", max_abs=0.5, sqnr_db=20, cosine=0.9, top1_agreement=0.9)
    assert failures(passing(max_abs=0.5, sqnr_db=20, cosine=0.9, top1_agreement=0.9), limit) == []


def test_max_abs_grows_with_logits_beyond_ten():
    limit = Tolerance("test", max_abs=1e-4)
    assert failures(passing(max_abs=2e-4, reference_peak=10.0), limit)
    assert failures(passing(max_abs=2e-4, reference_peak=1.0), limit)
    assert failures(passing(max_abs=2e-4, reference_peak=21.0), limit) == []


def test_require_names_what_failed_and_by_how_much():
    require(passing(), "onnxruntime", "int8", "variant x")
    with pytest.raises(
        CheckFailed, match=r"variant x: parity with the eager model failed over 32 golden images: SQNR 3.0 dB"
    ):
        require(passing(sqnr_db=3.0), "onnxruntime", "int8", "variant x")


def test_the_noise_of_the_reference_widens_fp32_up_to_a_cap():
    reference = np.random.default_rng(3).normal(size=(8, 5))
    limit = tolerance("*", "fp32")

    def broken(error: float, noise: float) -> list[str]:
        return failures(compare(reference, reference + error, noise), limit)

    assert broken(0.9e-4, 0) == []
    assert broken(5e-4, 0)[0] == "max abs error 5.00e-04 > 1.0e-04"
    assert broken(5e-4, 1.2e-4) == []
    assert broken(7e-4, 1.2e-4)[0] == "max abs error 7.00e-04 > 6.0e-04"
    assert broken(1.9e-3, 1) == []
    assert broken(2.1e-3, 1)[0] == "max abs error 2.10e-03 > 2.0e-03"


def test_the_noise_of_the_reference_leaves_other_precisions_alone():
    reference = np.random.default_rng(3).normal(size=(8, 5))
    parity = compare(reference, reference + 0.3, noise=1)
    assert failures(parity, tolerance("*", "int8"))[0].endswith("< 12 dB")
