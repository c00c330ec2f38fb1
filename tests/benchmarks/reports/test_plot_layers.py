"""The picture of a layer report: what is drawn is what the rows say."""

from dataclasses import replace
from pathlib import Path

import pytest

from resnetrt.benchmarks.reports.plot_layers import draw_layers, write_layer_plot
from resnetrt.calibration.explain.layer_report import LayerRow
from resnetrt.errors import UsageError

ROW = LayerRow("stem.conv", "Conv", "stem.conv", 41.0, 44.0, "input", 0.1, -1.0, 1.0, -1.2, 1.1, 0.001, 0.01)
ROWS = [ROW, replace(ROW, layer="block <1>", own_sqnr_db=12.0, sqnr_db=11.0, clipped=0.25), replace(ROW, layer="fc")]


def test_points_and_bars_are_the_rows():
    above, below = draw_layers(ROWS, "int8.cpu").axes
    own, whole = above.lines[:2]
    assert list(own.get_ydata()) == [44.0, 12.0, 44.0]
    assert list(whole.get_ydata()) == [41.0, 11.0, 41.0]
    assert [bar.get_height() for bar in below.patches] == [0.1, 25.0, 0.1]
    assert [label.get_text() for label in below.get_xticklabels()] == ["stem.conv", "block <1>", "fc"]
    assert above.get_ylim()[0] < 11


def test_exact_layers_stay_on_the_picture():
    above, _ = draw_layers([replace(ROW, own_sqnr_db=200.0, sqnr_db=200.0)], "x").axes
    assert above.get_ylim()[1] < 100


def test_many_layers_are_named_sparsely():
    _, below = draw_layers([replace(ROW, layer=f"l{i}") for i in range(400)], "deep").axes
    assert len(below.get_xticks()) <= 90


@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_equal_reports_give_equal_files(tmp_path: Path, suffix: str, magic: bytes):
    for name in ("a", "b"):
        write_layer_plot(ROWS, "int8.cpu", tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert (tmp_path / f"a{suffix}").read_bytes().startswith(magic)


def test_other_formats_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"expected a file name that ends in \.svg or \.png, found '\.pdf'"):
        write_layer_plot(ROWS, "int8.cpu", tmp_path / "a.pdf")
