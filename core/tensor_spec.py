"""What an engine takes and gives: one tensor's name, type and shape."""

from dataclasses import dataclass
from typing import Any

from resnetrt.fields import Fields, is_a


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

    @classmethod
    def from_fields(cls, fields: Fields) -> "TensorSpec":
        """The inverse of `to_json`."""
        shape = fields.get("shape", list)
        if not all(axis is None or is_a(axis, int) for axis in shape):
            fields.refuse("shape", "a list of integers, null for a free axis,")
        return cls(fields.get("name", str), fields.get("dtype", str), tuple(shape))
