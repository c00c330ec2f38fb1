"""What `quantize` says about a variant's layers: warnings, the worst ten, a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.calibration.explain.layer_report import LayerRow, explain_variant
from resnetrt.calibration.explain.suspects import Suspect, suspects_of
from resnetrt.cli.output import print_table
from resnetrt.errors import CheckFailed, UsageError
from resnetrt.parts import require_parts
from resnetrt.progress import show

_WORST = 10
_WARNINGS = 12


@dataclass(frozen=True)
class Explanation:
    """The layer report of one variant, and its suspicious layers."""

    variant: str
    rows: Sequence[LayerRow]
    suspects: Sequence[Suspect]

    @classmethod
    def of(cls, bundle: Bundle, variant: str) -> "Explanation":
        """Measure on the bundle's golden images."""
        try:
            rows = explain_variant(bundle, variant)
        except CheckFailed as error:  # an imported file may use other layer names
            show(f"warning: {variant}: no layer report: {error}")
            rows = []
        return cls(variant, rows, suspects_of(bundle, bundle.variant_file(variant), rows))

    def warn(self) -> None:
        """Print one line on stderr for each of the first dozen suspects."""
        for suspect in self.suspects[:_WARNINGS]:
            show(f"warning: {self.variant}: {suspect}")
        if len(self.suspects) > _WARNINGS:
            show(f"warning: {self.variant}: {len(self.suspects) - _WARNINGS} more; list them with --json")

    def to_json(self, layers: bool) -> dict[str, Any]:
        """`warnings`, and `layers` (all of them, in graph order) if asked for."""
        record: dict[str, Any] = {"warnings": [suspect.to_json() for suspect in self.suspects]}
        return record | ({"layers": [row.to_json() for row in self.rows]} if layers else {})

    def print_worst(self) -> None:
        """Print the ten layers with the lowest SQNR of their own, worst first."""
        if not self.rows:
            return
        worst = sorted(self.rows, key=lambda row: row.own_sqnr_db)[:_WORST]
        header = ("layer", "reads", "own dB", "net dB", "range", "seen", "clipped %", "at ends %")
        print_table(f"{self.variant}: layers that lose most", header, map(_cells, worst), left=2)

    def draw(self, path: Path) -> None:
        """Draw the picture of all layers."""
        from resnetrt.benchmarks.reports.plot_layers import write_layer_plot

        if not self.rows:
            return
        write_layer_plot(self.rows, f"{self.variant}: what quantization costs, layer by layer", path)
        show(f"picture: {path}")


def check_plot(path: Path | None, dialects: Sequence[str]) -> None:
    """Raise `UsageError` or `BackendMissing`, before any work, if the picture can't be drawn."""
    if path is None:
        return
    if len(dialects) != 1:
        raise UsageError(f"--explain-plot {path}: expected one dialect, found {len(dialects)}; choose with --dialect")
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"--explain-plot {path}: expected a file name that ends in .svg or .png")
    require_parts("--explain-plot", "matplotlib")


def _cells(row: LayerRow) -> tuple[str, ...]:
    shares = (f"{100 * row.clipped:.3f}", f"{100 * row.saturated:.3f}")
    reach, seen = _interval(row.low, row.high), _interval(row.minimum, row.maximum)
    return (row.layer, row.input or "floats", f"{row.own_sqnr_db:.1f}", f"{row.sqnr_db:.1f}", reach, seen, *shares)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.3g} .. {high:.3g}"
