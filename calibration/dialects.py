"""Each target's Q/DQ rules, as data; the table in the design says why they differ."""

from dataclasses import dataclass

from resnetrt.errors import UsageError


@dataclass(frozen=True)
class Dialect:
    """How ranges become Q/DQ nodes for one family of engines.

    `symmetric`: activations int8 with zero point 0; else uint8 (zero point 0 where a tensor is non-negative).
    `main_branch`: also quantize the main input of a residual add; the shortcut always is.
    `both_sides`: repeat the pair behind pools and slices with the same scale, so that they run on integers.
    `integer_bias`: store biases as int32 with the scale of the accumulator.
    """

    name: str
    symmetric: bool
    main_branch: bool
    both_sides: bool
    integer_bias: bool


DIALECTS = {
    "tensorrt": Dialect("tensorrt", symmetric=True, main_branch=False, both_sides=False, integer_bias=False),
    "cpu": Dialect("cpu", symmetric=False, main_branch=True, both_sides=True, integer_bias=True),
}


def dialect(name: str) -> Dialect:
    """The dialect `name`; raises `UsageError` suggesting the known ones."""
    if name not in DIALECTS:
        raise UsageError.unknown("dialect", name, DIALECTS)
    return DIALECTS[name]
