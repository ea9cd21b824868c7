"""Charts as SVG."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from runs.charts import (
    HEIGHT,
    WIDTH,
    Line,
    Mark,
    depth_colour,
    floor_of,
    line_chart,
    path_of,
    short,
    sparkline,
    thinned,
)


def lines_of(svg: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each line in an SVG, by name."""
    found = {}
    for path in ET.fromstring(svg).iter("path"):
        if name := path.get("data-name"):
            points = re.findall(r"[ML]([-\d.e]+) ([-\d.e]+)", path.get("d", ""))
            found[name] = [(float(x), float(y)) for x, y in points]
    return found


def line(values: Any, name: str = "a") -> Line:
    return Line(name, np.arange(len(values)), np.array(values, dtype=float), "train")


def test_extremes_of_a_long_curve_are_kept() -> None:
    values = np.sin(np.arange(100_000) / 1000)
    values[[777, 50_001]] = 9, -9
    values[60_000:70_000] = np.nan
    x, y = thinned(np.arange(100_000), values)
    assert len(x) <= 500
    assert (x[0], x[-1]) == (0, 99_999)
    assert {777, 50_001} <= set(x.tolist())
    assert np.isnan(y).any(), "the gap is one still"
    assert (np.diff(x) > 0).all()
    assert (values[x][~np.isnan(y)] == y[~np.isnan(y)]).all()


def test_a_short_curve_is_left_as_it_is() -> None:
    x, y = thinned(np.arange(500), np.arange(500.0))
    assert len(x) == len(y) == 500


def test_higher_values_are_higher_up_and_all_are_inside() -> None:
    points = lines_of(line_chart([line([0.5, 2.0, 1.0])], "a chart"))["a"]
    assert points[1][1] < points[2][1] < points[0][1]
    assert points[0][0] < points[1][0] < points[2][0]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    # halfway between the others in x, a third of the way in y
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert (points[0][1] - points[2][1]) / (points[0][1] - points[1][1]) == pytest.approx(1 / 3, abs=0.01)


def test_a_wide_range_is_shown_on_a_logarithmic_axis() -> None:
    points = lines_of(line_chart([line([1, 0.1, 0.01, 0.001])], "a chart"))["a"]
    steps = np.diff([y for _, y in points])
    assert steps == pytest.approx([steps[0]] * 3, abs=0.15)
    linear = lines_of(line_chart([line([1, 0.1, 0.01, 0.001])], "a chart", log=False))["a"]
    assert linear[1][1] - linear[0][1] > 5 * (linear[2][1] - linear[1][1])


def test_zeros_on_a_logarithmic_axis_are_at_its_foot() -> None:
    points = lines_of(line_chart([line([0, 1e-5, 1, 0])], "a chart", log=True))["a"]
    assert points[0][1] >= points[1][1] > points[2][1]
    assert all(0 < y < HEIGHT for _, y in points)


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0], [3.0, 3.0, 3.0], [1e-300, 1e299], [-1e299, 1e299], [5e-324, 1], [1e-12, 1.1e-12], [-5, -4]],
)
@pytest.mark.parametrize("log", [None, True, False])
def test_odd_values_give_a_drawing_with_axes(values: list[float], log: bool | None) -> None:
    svg = line_chart([line(values)], "a chart", log=log)
    points = lines_of(svg)["a"]
    assert len(points) == len(values)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert "nan" not in svg
    assert "inf" not in svg


def test_values_that_are_not_finite_leave_gaps() -> None:
    svg = line_chart([line([1, np.nan, 2, np.inf, 1e308, 3, 4])], "a chart")
    drawn = next(path.get("d") for path in ET.fromstring(svg).iter("path") if path.get("data-name"))
    assert drawn
    assert drawn.count("M") == 3
    assert len(lines_of(svg)["a"]) == 4


def test_nothing_to_draw_gives_no_drawing() -> None:
    assert line_chart([], "a chart") == ""
    assert line_chart([line([np.nan, np.inf])], "a chart") == ""


def test_names_can_not_break_out() -> None:
    evil = '"><script>alert(1)</script>'
    svg = line_chart([line([1, 2], name=evil)], evil, mark=Mark(1, evil), unit=evil)
    assert "<script" not in svg
    assert list(lines_of(svg)) == [evil]


def test_the_best_epoch_is_marked_where_it_is() -> None:
    svg = line_chart([line([3, 1, 2, 5, 4])], "a chart", mark=Mark(2, "best: epoch 1"))
    mark = next(path for path in ET.fromstring(svg).iter("path") if path.get("class") == "mark")
    assert f"M{lines_of(svg)['a'][2][0]:.1f} " in (mark.get("d") or "")
    assert "best: epoch 1" in svg


def test_many_long_lines_stay_small() -> None:
    lines = [line(np.random.default_rng(i).random(5000), f"layer {i}") for i in range(300)]
    svg = line_chart(lines, "many layers", log=True)
    assert len(lines_of(svg)) == 300
    assert len(svg) < 1_000_000


def test_lone_points_are_visible() -> None:
    assert path_of(np.array([1.0]), np.array([2.0])) == "M1 2h0"


def test_a_sparkline_of_one_value_is_drawn() -> None:
    assert "M2 " in sparkline(np.array([1.0]), 1.0, 1.0, "#000000")


def test_colours_go_from_the_first_layer_to_the_last() -> None:
    colours = [depth_colour(i, 50) for i in range(50)]
    assert len(set(colours)) == 50
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in [*colours, depth_colour(0, 1)])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (200, "200"), (12_000, "12k"), (3_000_000, "3M"), (1e-7, "1e-7"), (1e20, "1e20")],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_few_values_next_to_zero_do_not_press_the_others_together() -> None:
    values = np.concatenate([np.full(99, 1.0), [1e-18]])
    assert floor_of(values) == pytest.approx(0.1)
    assert floor_of(np.array([0.5, 1.0, 2.0])) == pytest.approx(0.5 / 1.15)
