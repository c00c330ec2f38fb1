"""The likeliest classes of an output: their order, labels and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resnetrt.errors import CheckFailed, UsageError


@dataclass(frozen=True)
class Prediction:
    """One class of a picture: its `label` (None if the bundle has none), its `index`, its `probability` from 0 to 1.

    The probability is the softmax of the logits: what the network claims, which need not be how often it is right.
    """

    label: str | None
    index: int
    probability: float

    @property
    def name(self) -> str:
        """The label, or the number of the class without one."""
        return f"class {self.index}" if self.label is None else self.label

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return {"label": self.label, "index": self.index, "probability": self.probability}


def best_first(values: npt.NDArray[Any], top: int) -> npt.NDArray[np.intp]:
    """Indices `(N, top)` of the largest `values` `(N, K)`, largest first; of equal ones the lower index comes first."""
    return np.argsort(-values, axis=1, kind="stable")[:, :top]


def top_classes(
    logits: npt.NDArray[Any], top: int, labels: Sequence[str] | None, what: str
) -> list[tuple[Prediction, ...]]:
    """The `top` likeliest classes for each row of `logits` `(N, K)`, likeliest first; all K if there are fewer.

    Raises `UsageError` for `top` below 1 and for outputs that are no logits of two classes or more, `CheckFailed` for
    outputs of `what` that are not finite.
    """
    if top < 1:
        raise UsageError(f"top: expected at least 1, found {top}")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise UsageError(
            f"{what}: expected logits of at least 2 classes, found an output of shape {logits.shape}; use infer"
        )
    if not np.isfinite(logits).all():
        raise CheckFailed(f"{what}: expected finite logits, found NaN or infinity; see: resnetrt verify BUNDLE")
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    names = labels or ()
    return [
        tuple(Prediction(names[k] if k < len(names) else None, int(k), float(row[k])) for k in indices)
        for row, indices in zip(probabilities, best_first(logits.astype(np.float64), top), strict=True)
    ]
