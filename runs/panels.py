"""The parts of a run's page: charts, the doctor's findings, confusion matrix, residuals."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup

from runs.charts import Line, Mark, bar_chart, depth_colour, line_chart, scatter_chart, sparkline
from runs.events import Log
from runs.facts import FAMILIES, HIDDEN, LR, Facts, Metric, epoch_seconds, value_at
from runs.numbers import number, seconds
from runs.status import STAGE, part

LEGEND = 12  # names below a chart
OTHERS = 24  # charts of curves that nothing is known of
CELLS = 30  # classes whose counts are written into the confusion matrix
MOST_CLASSES = 200  # classes that are drawn


def metric_charts(facts: Facts) -> list[dict[str, Any]]:
    """Training against validation."""
    found = []
    for metric in facts.metrics:
        lines, said = metric_lines(metric), []
        if metric.val is not None:
            known = metric.val.values[np.isfinite(metric.val.values)]
            if facts.best_step is not None:
                said.append(f"val {number(value_at(metric.val, facts.best_step))} in the best epoch")
            if len(known):
                said.append(f"val {number(known[-1])} at the end")
        if metric.train is not None and len(metric.train.values):
            said.append(f"train {number(metric.train.values[-1])} at the end")
        label = f"{metric.name} by step"
        found.append(_chart(metric.name, lines, label, said=", ".join(said), mark=facts.mark))
    return [chart for chart in found if chart]


def metric_lines(metric: Metric) -> list[Line]:
    """The lines of one metric, the ones that matter last, and so on top."""
    name = "train, mean of logged steps" if metric.sampled else "train"
    curves = (("train, by step", metric.by_step, "faint"), (name, metric.train, "train"), ("val", metric.val, "val"))
    return [Line(name, curve.steps, curve.values, style) for name, curve, style in curves if curve is not None]


def learning_charts(facts: Facts) -> list[dict[str, Any]]:
    """Learning rate, and time per epoch."""
    rates = [(tag, curve) for tag, curve in facts.log.curves.items() if LR.match(tag)]
    lines = [
        Line(tag, curve.steps, curve.values, "train" if len(rates) == 1 else depth_colour(i, len(rates)))
        for i, (tag, curve) in enumerate(rates)
    ]
    found = [_chart("learning rate", lines, "learning rate by step", mark=facts.mark)]
    epochs, took = epoch_seconds(facts.log)
    if len(epochs):
        line = Line("seconds", epochs, took, "train")
        middle = f"median {seconds(float(np.median(took)))}"
        found.append(
            _chart("time per epoch", [line], "seconds by epoch", said=middle, unit="s", x_name="epoch", from_zero=True)
        )
    return [chart for chart in found if chart]


def gradients(log: Log, mark: Mark | None) -> dict[str, Any] | None:
    """The norms of the gradients: all layers in one chart, coloured by depth, and each in a row of its own."""
    curves = {tag.removeprefix("grad_norm/"): c for tag, c in log.curves.items() if tag.startswith("grad_norm/")}
    every = curves.pop("all", None)
    lines = [
        Line(name, curve.steps, curve.values, depth_colour(i, len(curves)))
        for i, (name, curve) in enumerate(curves.items())
    ]
    if every is not None:
        lines.append(Line("all", every.steps, every.values, "ink"))
    chart = _chart("gradient norms", lines, "norm of the gradients by layer and step", log=True, mark=mark)
    if chart is None:
        return None
    values = np.concatenate([line.y for line in lines])
    positive = values[np.isfinite(values) & (values > 0)]
    rows = []
    for line in lines[: len(curves)]:
        known = line.y[np.isfinite(line.y)]
        if len(known) and len(positive):
            spark = sparkline(line.y, float(positive.min()), float(positive.max()), line.style)
            rows.append((line.name, spark, number(float(np.median(known))), number(float(known.max()))))
    return {"chart": chart, "rows": rows}


def more_charts(facts: Facts) -> list[dict[str, Any]]:
    """What else was logged."""
    log, found = facts.log, []
    for family, label in FAMILIES.items():
        curves = [(tag, curve) for tag, curve in log.curves.items() if tag.startswith(f"{family}/")]
        lines = [
            Line(tag.removeprefix(f"{family}/"), curve.steps, curve.values, depth_colour(i, len(curves)))
            for i, (tag, curve) in enumerate(curves)
        ]
        found.append(_chart(family.replace("_", " "), lines, f"{label}, by step", said=label))
    shown_already = {name for metric in facts.metrics for name in (metric.tag, metric.name)}
    rest = [
        (tag, curve)
        for tag, curve in log.curves.items()
        if tag.partition("/")[0] not in (*FAMILIES, "grad_norm")
        and not (HIDDEN.match(tag) or LR.match(tag) or STAGE.match(tag) or tag in shown_already)
    ]
    found += [_chart(tag, [Line(tag, c.steps, c.values, "train")], f"{tag} by step") for tag, c in rest[:OTHERS]]
    return [chart for chart in found if chart]


def _chart(title: str, lines: Sequence[Line], label: str, said: str = "", **options: Any) -> dict[str, Any] | None:
    svg = line_chart(lines, label, **options)
    missing = sum(int((~np.isfinite(line.y)).sum()) for line in lines)
    if missing:
        note = f"{missing} value{'s are' if missing > 1 else ' is'} not finite"
        said = f"{said}; {note}" if said else note
    if not svg and not missing:
        return None
    legend = [(line.name, line.style) for line in lines]
    return {
        "title": title,
        "svg": svg,
        "legend": legend if len(legend) <= LEGEND else [],
        "said": said,
        "ends": [*legend[:1], *legend[-1:]] if len(legend) > LEGEND else [],
    }


def doctor(found: dict[str, Any]) -> dict[str, Any] | None:
    """The findings: causes with their symptoms below them; None for a run without a doctor."""
    if not isinstance(found.get("checked"), list) or not isinstance(found.get("findings"), list):
        return None
    findings = [finding for finding in found["findings"] if isinstance(finding, dict)]
    names = {finding.get("name") for finding in findings}
    causes = [finding for finding in findings if finding.get("follows_from") not in names]
    repairs = [repair for repair in found.get("repairs") or [] if isinstance(repair, dict)]
    return {
        "checked": [str(name).replace("_", " ") for name in found["checked"]],
        "unseen": [f"{name} ({why})".replace("_", " ") for name, why in part(found, "unseen").items()],
        "successor": str(found.get("repaired_in") or ""),
        "findings": [
            {
                **_finding(cause),
                "symptoms": [
                    _finding(f) for f in findings if f not in causes and f["follows_from"] == cause.get("name")
                ],
            }
            for cause in causes
        ],
        "repairs": [
            {
                "run": str(repair.get("run", "")),
                "remedy": str(repair.get("remedy", "")),
                "result": ", ".join(f"{k} {number(v)}" for k, v in part(repair, "result").items()),
            }
            for repair in repairs
        ],
    }


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    place = [f"{key} {finding[key]}" for key in ("epoch", "step") if finding.get(key) is not None]
    if finding.get("since") is not None and finding["since"] != finding.get("step"):
        place.append(f"since step {finding['since']}")
    return {
        "title": str(finding.get("title") or str(finding.get("name", "")).replace("_", " ")),
        "place": ", ".join(place),
        "evidence": str(finding.get("evidence") or ""),
        "remedies": [str(remedy) for remedy in finding.get("remedies") or []],
        "advice": str(finding.get("advice") or ""),
    }


def confusion(found: dict[str, Any]) -> dict[str, Any] | None:
    """The confusion matrix as a drawing, and what was confused most."""
    try:
        names = [str(name) for name in found["classes"]]
        rows = np.array(found["counts"], dtype=np.int64).reshape(-1, 3)
        counts = np.zeros((len(names), len(names)), dtype=np.int64) if len(names) <= MOST_CLASSES else None
        totals = np.bincount(rows[:, 0], rows[:, 2], len(names)) if len(rows) else np.zeros(len(names))
        if counts is not None:
            counts[rows[:, 0], rows[:, 1]] = rows[:, 2]
        wrong = rows[rows[:, 0] != rows[:, 1]]
        wrong = wrong[np.argsort(-wrong[:, 2], kind="stable")][:10]
        worst = [(names[a], names[b], int(n), f"{n / totals[a]:.1%}") for a, b, n in wrong]
        total, mistakes = int(rows[:, 2].sum()), int(rows[rows[:, 0] != rows[:, 1], 2].sum())
        said = (
            f"epoch {found['epoch']}, {found['part']}: {total:,} samples, {mistakes:,} mistake{'s' * (mistakes != 1)}"
        )
        svg = matrix(counts, names) if counts is not None else Markup("")
    except (KeyError, TypeError, ValueError, IndexError):  # missing, or of another form
        return None
    return {"svg": svg, "said": said, "worst": worst, "classes": len(names)}


def matrix(counts: np.ndarray, names: Sequence[str]) -> Markup:
    """Labels are rows and predictions columns of counts `(K, K)`; each row is shaded by its share."""
    k = len(names)
    labels = [name if len(name) <= 9 else f"{name[:8]}…" for name in names]
    named = k <= CELLS
    left = 14 + (6 * max(map(len, labels)) + 6 if named else 4)
    cell = (380 - left - 4) / k
    size = min(11.0, cell * 0.42)
    long = named and max(map(len, labels)) * 6 > cell
    top = 14 + ((6 * max(map(len, labels)) + 6 if long else 14) if named else 4)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    parts = [
        f'<svg class="matrix" viewBox="0 0 380 {top + 380 - left:.0f}" role="img" aria-label="confusion matrix">',
        f'<text class="tick" x="{left + (376 - left) / 2:.0f}" y="10" text-anchor="middle">predicted</text>',
        f'<text class="tick" transform="translate(10 {top + (376 - left) / 2:.0f}) rotate(-90)" '
        'text-anchor="middle">label</text>',
    ]
    for i, name in enumerate(labels if named else []):
        at = (i + 0.5) * cell
        turn = f' transform="rotate(-90 {left + at + 3:.1f} {top - 4})" text-anchor="start"' if long else ""
        middle = "" if long else ' text-anchor="middle"'
        x = left + at + (3 if long else 0)
        parts.append(f'<text class="name" x="{x:.1f}" y="{top - 4}"{turn}{middle}>{escape(name)}</text>')
        parts.append(
            f'<text class="name" x="{left - 4}" y="{top + at + 3.5:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    for a, b in (np.argwhere(counts) if k > CELLS else np.argwhere(counts >= 0)).tolist():
        kind = "right" if a == b else "wrong"
        title = f"{names[a]} → {names[b]}: {counts[a, b]}"
        x, y = left + b * cell, top + a * cell
        # a mistake is rare where the training went well, and must be seen all the same
        deep = share[a, b] if a == b else math.sqrt(share[a, b])
        parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
            f'fill-opacity="{0.04 + 0.86 * deep:.2f}"><title>{escape(title)}</title></rect>'
        )
        if named and counts[a, b]:
            light = " on" if deep > 0.55 else ""
            parts.append(
                f'<text class="count{light}" font-size="{size:.1f}" x="{x + cell / 2 - 0.5:.1f}" '
                f'y="{y + cell / 2 + size / 3:.1f}" text-anchor="middle">{counts[a, b]}</text>'
            )
    return Markup("".join([*parts, "</svg>"]))


def residuals(found: dict[str, Any]) -> dict[str, Any] | None:
    """How far predictions were from their targets, by output."""
    try:
        rows: list[list[str]] = []
        charts: list[dict[str, Any]] = []
        for i, output in enumerate(found["outputs"]):
            rows.append([str(i), *(number(output.get(key)) for key in ("mean", "mae", "rmse", "r2"))])
            if "histogram" in output and len(charts) < 6:
                low, high = map(float, output["range"])
                edges = np.linspace(low, high, len(output["histogram"]) + 1)
                predictions, targets = (np.array(output[key], dtype=float) for key in ("predictions", "targets"))
                counts = np.array(output["histogram"])
                name = f"output {i}: " if len(found["outputs"]) > 1 else ""
                title = f"{name}prediction (up) against target"
                charts.append({"title": title, "svg": scatter_chart(targets, predictions, title)})
                title = f"{name}residuals (prediction - target)"
                charts.append({"title": title, "svg": bar_chart(edges, counts, title)})
        lost = sum(output["not_finite"] for output in found["outputs"])
        said = f"epoch {found['epoch']}, {found['part']}: {found['outputs'][0]['samples']:,} samples"
        said += f"; {lost:,} pairs are not finite" * (lost > 0)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):  # missing, or of another form
        return None
    return {"rows": rows, "charts": charts, "said": said}
