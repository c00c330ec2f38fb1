"""The picture: every engine drawn where it was measured, labels apart, readable on any background."""

import io
import itertools
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from resnetrt.benchmarks.reports.label_placement import Label, overlap, place_labels
from resnetrt.benchmarks.reports.plot import draw_tradeoff, write_tradeoff
from resnetrt.errors import UsageError

PAPER = (254, 254, 254, 255)  # of all pictures
BOUNDS = (0.0, 0.0, 1200.0, 700.0)


def row(engine, median_ms, top1, drop_ci=0.3, precision="int8"):
    interval = None if engine == "eager-fp32" else [80.0 - top1 - drop_ci, 80.0 - top1 + drop_ci]
    drop = None if interval is None else 80.0 - top1
    made = {
        "engine": engine,
        "precision": precision,
        "batch": 1,
        "median_ms": median_ms,
        "top1": top1,
        "drop_pp": drop,
    }
    return made | {
        "ci_ms": [median_ms * 0.97, median_ms * 1.04],
        "drop_ci_pp": interval,
        "times_faster": 33.7 / median_ms,
    }


FEW = [row("eager-fp32", 33.7, 80.0, precision="fp32"), row("openvino-fp32-cpu", 18.6, 80.0, precision="fp32")]
MANY = [
    *FEW,
    row("onnxruntime-fp32-cpu", 18.7, 80.0, 0.1, "fp32"),
    row("openvino-bf16-cpu", 9.66, 79.96, 0.2, "bf16"),
    row("onnxruntime-int8-tensorrt", 17.1, 79.4, 0.45),
    row("onnxruntime-int8-cpu", 8.62, 79.8, 0.35),
    row("openvino-int8-cpu", 5.41, 79.82, 0.35),
    row("nncf-int8-cpu", 5.42, 79.85, 0.35),
    row("tensorrt-fp16-sm86", 0.9, 79.99, 0.2, "fp16"),
]


def label_boxes(figure):
    figure.draw_without_rendering()
    return {text.get_text().split("\n")[0]: text.get_window_extent().extents for text in figure.axes[0].texts}


@pytest.mark.parametrize("rows", [FEW, MANY], ids=["few", "many"])
def test_wide_latency_intervals_lie_inside(rows):
    wide = [row | {"ci_ms": [row["median_ms"] / 3, row["median_ms"] * 3]} for row in rows]
    low, high = draw_tradeoff(wide, "title").axes[0].get_xlim()
    assert low < min(row["ci_ms"][0] for row in wide)
    assert high > max(row["ci_ms"][1] for row in wide)


def test_the_caption_promises_no_confidence_that_few_rounds_lack():
    assert "median latency, 95 % from six rounds on" in draw_tradeoff(FEW, "title").get_supxlabel()


def test_few_rounds_have_no_factor_in_the_picture_and_it_says_why():
    few = [row | {"rounds": 1, "times_faster": None, "disturbed": True} for row in MANY]
    figure = draw_tradeoff(few, "title")
    assert "n = 1: no ratio from fewer than six rounds" in figure.get_supxlabel()
    assert "disturbed machine" in figure.get_supxlabel()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any(text.startswith("openvino-int8-cpu *\n5.41 ms") for text in texts)
    assert not any(text.endswith("x") for text in texts)


@pytest.mark.parametrize("rows", [FEW[:1], FEW, MANY], ids=["one", "few", "many"])
def test_labels_lie_inside_and_apart(rows):
    figure = draw_tradeoff(rows, "title")
    boxes = label_boxes(figure)
    assert set(boxes) == {item["engine"] for item in rows}
    for one, other in itertools.combinations(boxes.values(), 2):
        assert overlap(tuple(one), [tuple(other)]) == 0
    left, bottom, right, top = figure.axes[0].get_window_extent().extents
    for box in boxes.values():
        assert left <= box[0] < box[2] <= right + 1
        assert bottom <= box[1] < box[3] <= top + 1
    transform = figure.axes[0].transData.transform
    markers = [transform((item["median_ms"], item["top1"])) for item in rows]
    for box, (x, y) in itertools.product(boxes.values(), markers):
        assert overlap(tuple(box), [(x - 5, y - 5, x + 5, y + 5)]) == 0


def test_points_and_bars_are_where_they_were_measured():
    axes = draw_tradeoff(MANY, "title").axes[0]
    centres = {(float(c.lines[0].get_xdata()[0]), float(c.lines[0].get_ydata()[0])) for c in axes.containers}
    assert centres == {(item["median_ms"], item["top1"]) for item in MANY}
    slow_int8 = axes.containers[4].lines[2][1].get_segments()[0]
    assert slow_int8[:, 1] == pytest.approx([78.95, 79.85])  # FP32 top-1 less the drop's interval
    assert axes.get_xscale() == "log"
    assert draw_tradeoff(FEW, "t").axes[0].get_xscale() == "linear"


def test_rows_without_a_measurement_are_left_out():
    partial = [FEW[0], FEW[1] | {"median_ms": None}, FEW[1] | {"engine": "x", "top1": None}]
    assert list(label_boxes(draw_tradeoff(partial, "t"))) == ["eager-fp32"]
    with pytest.raises(UsageError, match="expected an engine with both latency and accuracy"):
        draw_tradeoff(partial[1:], "t")


def test_files_are_whole_white_and_the_same_each_time(tmp_path):
    first = [path.read_bytes() for path in write_tradeoff(MANY, "one <title> & more", tmp_path / "a")]
    again = [path.read_bytes() for path in write_tradeoff(MANY, "one <title> & more", tmp_path / "b")]
    assert first == again
    svg, png = first
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert b"http://" not in svg.replace(b"http://www.w3.org", b"").replace(b"http://purl.org", b"").replace(
        b"http://creativecommons.org", b""
    )
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    assert image.size[0] >= 1200
    assert {image.getpixel((x, y)) for x in (0, image.width - 1) for y in (0, image.height - 1)} == {
        (254, 254, 254, 255)
    }


def test_label_colours_are_readable_on_white():
    for text in draw_tradeoff(MANY, "t").axes[0].texts:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(text.get_color())]
        luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))  # WCAG 2.1
        assert 1.05 / (luminance + 0.05) >= 3.0, text.get_text()


cells = st.tuples(st.integers(0, 6), st.integers(0, 3))
jitter = st.tuples(st.floats(0, 80), st.floats(0, 80))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(cells, jitter, min_size=1, max_size=6))
def test_few_labels_never_overlap_where_points_are_80_pixels_apart(places):
    """Closer ones in a corner may leave no room for a label that is twice as wide, with a line to its point."""
    anchors = [(50 + 170 * i + x, 50 + 170 * j + y) for (i, j), (x, y) in places.items()]
    labels = [Label((150.0, 32.0), [p], [(p[0] - 6, p[1] - 6, p[0] + 6, p[1] + 6)]) for p in anchors]
    placements = place_labels(labels, [], BOUNDS)
    boxes = [placement.box for placement in placements]
    for index, box in enumerate(boxes):
        assert overlap(box, boxes[:index] + boxes[index + 1 :]) == pytest.approx(0, abs=1e-6)
        assert overlap(box, [mark for label in labels for mark in label.drawn]) == pytest.approx(0, abs=1e-6)
        assert overlap(box, [BOUNDS]) == pytest.approx(150 * 32)


def test_a_label_far_from_its_point_gets_a_line():
    wall = [(0.0, 290.0, 1200.0, 420.0)]
    placement = place_labels([Label((100.0, 30.0), [(600.0, 350.0)], [])], wall, BOUNDS)[0]
    assert placement.leader is not None
    assert placement.leader[0] == (600.0, 350.0)
    assert overlap(placement.box, wall) == 0
    assert place_labels([Label((100.0, 30.0), [(600.0, 350.0)], [])], [], BOUNDS)[0].leader is None


def test_overlap_is_an_area():
    assert overlap((0, 0, 10, 10), [(5, 5, 20, 20), (-5, -5, 1, 1), (10, 0, 20, 10)]) == 26
    assert overlap((0, 0, 1, 1), []) == 0


def test_the_footer_explains_the_dashed_line_only_where_it_is_drawn():
    with_eager, without = (draw_tradeoff(rows, "t") for rows in (FEW, FEW[1:]))
    assert "dashed: eager FP32" in with_eager.get_supxlabel().replace("\n", " ")
    assert "dashed" not in without.get_supxlabel()
    lines = [f.axes[0].get_lines() for f in (with_eager, without)]
    assert [sum(line.is_dashed() for line in drawn) for drawn in lines] == [1, 0]
