"""What an engine takes and gives: one tensor's name, type and shape."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: tensor name, numpy dtype name, shape with None for an axis that is free (the batch)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("N" if axis is None else str(axis) for axis in self.shape)
        return f"{self.name} {self.dtype} ({axes})"

    def to_json(self) -> dict[str, Any]:
        """The sidecar's record of this tensor."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
