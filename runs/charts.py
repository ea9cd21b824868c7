"""Charts as SVG in a page: small, readable on a phone, with the values for a pointer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

MOST = 500  # points of a line
ALL = 6000  # points of all lines of a chart
WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 20, 24
LARGEST = 1e300  # beyond, differences would overflow
DECADES = 1e10  # that a logarithmic axis spans at most
DEPTH = ((59, 111, 212), (142, 78, 198), (214, 64, 159), (247, 107, 21))  # from the first layer to the last


@dataclass
class Line:
    """One line of a chart.

    Attributes:
        name: For the legend.
        x: `(N,)` ascending.
        y: `(N,)`; values that are not finite leave gaps.
        style: A class of the page's style sheet, or a colour that begins with `#`.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str


@dataclass
class Mark:
    """A place on the x axis with a label, such as the best epoch."""

    x: float
    label: str


def thinned(x: np.ndarray, y: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` of the points `(N,)`, the first, the last, and the highest and lowest of each part."""
    if len(y) <= most:
        return x, y
    parts = max(1, (most - 2) // 2)
    width = -(-len(y) // parts)
    places = np.minimum(np.arange(parts * width), len(y) - 1).reshape(parts, width)
    values, known = y[places], np.isfinite(y[places])
    low = np.where(known, values, np.inf).argmin(1)
    high = np.where(known, values, -np.inf).argmax(1)
    rows = np.arange(parts)
    kept = np.unique(np.concatenate([[0, len(y) - 1], places[rows, low], places[rows, high]]))
    return x[kept], y[kept]


def line_chart(
    lines: Sequence[Line],
    label: str,
    *,
    log: bool | None = None,
    mark: Mark | None = None,
    unit: str = "",
    x_name: str = "step",
    from_zero: bool = False,
) -> Markup:
    """A line chart, as wide as its place in the page.

    Args:
        lines: The lines; those without a finite value are left out.
        label: What the chart shows, for those who can't see it.
        log: Whether the y axis is logarithmic; by default where that shows more: all is positive, over wide ranges.
        mark: A place to mark.
        unit: Of the values.
        x_name: What the x axis counts.
        from_zero: Whether a linear y axis begins at 0.

    Returns:
        An `<svg>`; empty when there is nothing to draw.
    """
    most = max(40, min(MOST, ALL // max(1, len(lines))))
    drawn = []
    for line in lines:
        y = np.where(np.abs(line.y) < LARGEST, line.y, np.nan)
        if np.isfinite(y).any():
            drawn.append(Line(line.name, *thinned(line.x, y, most), line.style))
    if not drawn:
        return Markup("")
    axes = _axes(drawn, log, mark, from_zero)
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}" '
        f'data-x="{escape(x_name)}" data-unit="{escape(unit)}" data-left="{axes.edge}" data-right="{WIDTH - RIGHT}" '
        f'data-first="{axes.left:.10g}" data-last="{axes.right:.10g}">'
    )
    marked = _marked(axes, mark) if mark else []
    parts = [head, *_grid(axes), *marked, *(_path(axes, line) for line in drawn)]
    return Markup("".join([*parts, '<path class="cursor" d=""/></svg>']))


@dataclass(frozen=True)
class Axes:
    """Where values are in a chart.

    Args:
        edge: Where the x axis begins, in units of the drawing.
        left: The first value there.
        right: The last one.
        bottom: The lowest value of the y axis.
        top: The highest one.
        ticks: Of the y axis.
        log: Whether it is logarithmic.
    """

    edge: float
    left: float
    right: float
    bottom: float
    top: float
    ticks: Sequence[float]
    log: bool

    def x(self, x: np.ndarray | float) -> np.ndarray:
        """Places of values along the x axis."""
        return self.edge + (np.asarray(x) - self.left) / (self.right - self.left) * (WIDTH - self.edge - RIGHT)

    def y(self, y: np.ndarray | float) -> np.ndarray:
        """Places of values along the y axis, from above."""
        y = np.log10(np.maximum(y, self.bottom)) if self.log else np.asarray(y)
        low, high = (math.log10(self.bottom), math.log10(self.top)) if self.log else (self.bottom, self.top)
        return TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)


def _axes(drawn: Sequence[Line], log: bool | None, mark: Mark | None, from_zero: bool) -> Axes:
    values = np.concatenate([line.y[np.isfinite(line.y)] for line in drawn])
    if log is None and not from_zero:
        log = bool(values.min() > 0 and values.max() / 30 > values.min())
    positive = values[values > 0]
    log = bool(log) and len(positive) > 0
    if log:
        positive = np.maximum(positive, floor_of(positive))
    bottom, top, ticks = _axis(positive if log else np.append(values, [0.0] * from_zero), log)
    if from_zero:
        bottom, ticks = 0.0, [tick for tick in ticks if tick >= 0]
    edge = max([LEFT, *(8 + 7 * len(short(tick)) for tick in ticks)])
    ends = [at for line in drawn for at in (line.x.min(), line.x.max())] + ([mark.x] if mark else [])
    first, last = float(min(ends)), float(max(ends))
    left, right = (first, last) if first < last else (first - 0.5, first + 0.5)
    return Axes(edge, left, right, bottom, top, ticks, log)


def _grid(axes: Axes) -> list[str]:
    parts = []
    for tick in axes.ticks:
        at = float(axes.y(tick))
        parts.append(f'<path class="grid" d="M{axes.edge} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" x="{axes.edge - 6}" y="{at + 3.5:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    whole = [t for t in _ticks(axes.left, axes.right, 5) if axes.left <= t <= axes.right and float(t).is_integer()]
    for tick in whole or [axes.left if axes.left.is_integer() else (axes.left + axes.right) / 2]:
        at = float(axes.x(tick))
        parts.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{short(tick)}</text>')
    return parts


def _marked(axes: Axes, mark: Mark) -> list[str]:
    at = float(axes.x(mark.x))
    side, shift = ("end", 4) if at > WIDTH / 2 else ("start", -4)
    return [
        f'<path class="mark" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>',
        f'<text class="marked" x="{at + shift:.1f}" y="{TOP - 6}" text-anchor="{side}">{escape(mark.label)}</text>',
    ]


def _path(axes: Axes, line: Line) -> str:
    look = f'style="stroke:{line.style}"' if line.style.startswith("#") else f'class="line {line.style}"'
    look = look.replace("style=", 'class="line" style=')
    if np.isfinite(line.y).sum() == 1:
        look = look.replace('class="', 'class="point ')
    xs, ys = " ".join(f"{x:g}" if x < 1e6 else str(int(x)) for x in line.x), " ".join(f"{y:.5g}" for y in line.y)
    return (
        f'<path {look} d="{path_of(axes.x(line.x), axes.y(line.y))}" data-name="{escape(line.name)}" '
        f'data-xs="{xs}" data-ys="{ys}"><title>{escape(line.name)}</title></path>'
    )


def floor_of(positive: np.ndarray) -> float:
    """Where a logarithmic axis begins: a few values next to zero would press all others together.

    Args:
        positive: `(N,)`, all above 0.
    """
    return float(max(positive.min() / 1.15, np.quantile(positive, 0.02) / 10, positive.max() / DECADES))


def sparkline(y: np.ndarray, bottom: float, top: float, style: str) -> Markup:
    """A line without axes, logarithmic from `bottom` to `top`, both above 0."""
    y = np.where(np.abs(y) < LARGEST, y, np.nan)
    x, y = thinned(np.arange(len(y)), y, 120)
    span = math.log10(top / bottom) or 1.0
    at = 22 - 20 * np.log10(np.maximum(y, bottom) / bottom) / span
    path = path_of(x / max(1, x[-1]) * 116 + 2 if len(x) else x, at)
    return Markup(
        f'<svg class="spark" viewBox="0 0 120 24" aria-hidden="true"><path class="line" style="stroke:{style}" '
        f'd="{path}"/></svg>'
    )


def bar_chart(edges: np.ndarray, counts: np.ndarray, label: str) -> Markup:
    """A histogram: `counts` `(B,)` between `edges` `(B + 1,)`."""
    high, wide = max(1, counts.max()), WIDTH - LEFT - RIGHT
    low, span = float(edges[0]), float(edges[-1] - edges[0]) or 1.0
    bottom = HEIGHT - BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in [tick for tick in _ticks(0, high, 4) if tick <= high]:
        at = bottom - tick / high * (bottom - TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    for i, count in enumerate(counts.tolist()):
        if not count:
            continue
        tall = count / high * (bottom - TOP)
        a, b = (LEFT + (float(edge) - low) / span * wide for edge in edges[i : i + 2])
        parts.append(
            f'<rect class="bar" x="{a:.1f}" y="{bottom - tall:.1f}" width="{max(0.5, b - a - 1):.1f}" '
            f'height="{tall:.1f}"><title>{edges[i]:.4g} to {edges[i + 1]:.4g}: {count}</title></rect>'
        )
    for tick in [tick for tick in _ticks(low, low + span, 5) if low <= tick <= low + span]:
        at = LEFT + (tick - low) / span * wide
        parts.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{short(tick)}</text>')
    return Markup("".join([*parts, "</svg>"]))


def scatter_chart(x: np.ndarray, y: np.ndarray, label: str) -> Markup:
    """Points `(N,)` against `(N,)` on equal axes, with the line on which both are equal."""
    both = np.concatenate([x, y])
    bottom, top, ticks = _axis(both, log=False)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in ticks:
        share = (tick - bottom) / (top - bottom)
        at_y, at_x = TOP + (1 - share) * high, LEFT + share * wide
        parts.append(f'<path class="grid" d="M{LEFT} {at_y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at_y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
        parts.append(f'<text class="tick" x="{at_x:.1f}" y="{HEIGHT - 7}" text-anchor="middle">{short(tick)}</text>')
    parts.append(f'<path class="mark" d="M{LEFT} {TOP + high}L{LEFT + wide} {TOP}"/>')
    across, down = LEFT + (x - bottom) / (top - bottom) * wide, TOP + (top - y) / (top - bottom) * high
    dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(across.tolist(), down.tolist(), strict=True))
    return Markup("".join([*parts, f'<path class="dots" d="{dots}"/></svg>']))


def path_of(x: np.ndarray, y: np.ndarray) -> str:
    """The `d` of an SVG path through points; where one is not finite it is interrupted."""
    parts, pen_down = [], False
    for a, b in zip(np.round(x, 1).tolist(), np.round(y, 1).tolist(), strict=True):
        if not math.isfinite(b):
            pen_down = False
            continue
        # a point without neighbours is drawn too, by the round end of a line without length
        parts.append(f"L{a:g} {b:g}" if pen_down else f"M{a:g} {b:g}h0")
        pen_down = True
    return "".join(parts)


def depth_colour(place: int, count: int) -> str:
    """The colour of a layer: from the first to the last of a network, blue to orange."""
    at = place / max(1, count - 1) * (len(DEPTH) - 1)
    i = min(int(at), len(DEPTH) - 2)
    mixed = [round(a + (b - a) * (at - i)) for a, b in zip(DEPTH[i], DEPTH[i + 1], strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def short(value: float) -> str:
    """A number as an axis shows it: 0.05, 200, 12k, 3M, 1e-07."""
    value = float(value)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size <= abs(value) < 1e13:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def _axis(values: np.ndarray, log: bool) -> tuple[float, float, list[float]]:
    """Where an axis begins and ends, and its ticks."""
    low, high = float(values.min()), float(values.max())
    if not log:
        if low == high:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        margin = (high - low) * 0.05
        low, high = low - margin, high + margin
        return low, high, [tick for tick in _ticks(low, high, 5) if low <= tick <= high]
    low, high = low / 1.15, high * 1.15
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, -(-(last - first) // 6))
    factors = (1,) if last - first > 3 else (1, 3) if last - first > 1 else (1, 2, 5)
    ticks = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return low, high, [tick for tick in ticks if low <= tick <= high] or [low * 1.15]


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`."""
    rough = (high - low) / about
    if rough <= 0 or not math.isfinite(rough):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)][:20]
