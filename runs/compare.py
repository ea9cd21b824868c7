"""Runs side by side: what they came to, and in which keys of their configs they differ."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runs.errors import UserError, nearest
from runs.events import Log, read_log
from runs.files import write_whole
from runs.keys import flat, short_class
from runs.numbers import number, seconds, shown
from runs.pages import check_ours, render
from runs.run import LOGS, run_folders, unknown_run
from runs.status import STAGE, better_mode, part, read_config, read_json, status, why_broken

# keys that say where a run is and not what it is; they differ in all runs
PLACES = ("name", "checkpoint.dirpath", "trainer.default_root_dir", "trainer.logger", "trainer.plugins")
METRIC = "val/loss"
STAGES = {"tr": "train", "va": "val", "te": "test"}
BROKEN = 5  # runs of which it is said what is broken
COLOURS = {
    "finished": "green", "running": "blue", "interrupted": "yellow",
    "ended by doctor": "red", "not finite": "red", "broken": "red",
}  # fmt: skip
SHOWN = 24  # signs of a value in the terminal


@dataclass
class Row:
    """One run.

    Attributes:
        folder: Its folder.
        name: The folder as it is called.
        status: As `runs.status.status` has it.
        metrics: Those of the best epoch, and of the test.
        epochs: How many it has done or begun; None where nothing says it.
        seconds: How long it was trained.
        findings: What the doctor found, symptoms left out; None for a run without a doctor.
        config: The complete config.
        why: What is broken, of a broken one.
        keys: The config as on the command line.
    """

    folder: Path
    name: str
    status: str = "broken"
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int | None = None
    seconds: float | None = None
    findings: list[str] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    keys: dict[str, Any] = field(default_factory=dict)


@dataclass
class Comparison:
    """Runs in their order, and what is shown of them.

    Attributes:
        rows: The runs, the best one first.
        metrics: Names of metrics, the most important first.
        keys: The keys in which the configs differ.
        sort: By what the rows are sorted.
        modes: `min` or `max` of each metric.
    """

    rows: list[Row]
    metrics: list[str]
    keys: list[str]
    sort: str
    modes: dict[str, str]


def compare(places: Sequence[str] = (), sort: str | None = None, logs: Path = LOGS) -> Comparison:
    """Read runs, and put them in order.

    Args:
        places: Folders of runs, folders with runs in them, names of recipes; the default is all in `logs`.
        sort: A metric, a key in which the configs differ, or `run`, `status`, `epochs`, `time`; the default is the
            metric that most of the runs monitor.
        logs: Where recipes have their runs.

    Raises:
        UserError: There are no runs, or nothing of the name `sort`.
    """
    blocks: dict[str, Any] = {}
    rows = [read_row(folder, logs, blocks) for folder in find_runs(places, logs)]
    keys = differing(row.keys for row in rows if row.keys)
    monitors = [monitor(row.config) for row in rows]
    first = max(monitors, key=monitors.count, default=METRIC)
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    metrics = sorted(
        names, key=lambda name: (name != first, not name.startswith("val"), not name.endswith("loss"), name)
    )
    configs = {name: [r.config for r in rows if name in r.metrics] for name in metrics}
    modes = {name: _mode(name, known) for name, known in configs.items()}
    wanted = same_name(sort) if sort and sort not in keys else sort or (first if first in metrics else "run")
    columns = {"run", "status", "epochs", "time"}
    if wanted not in {*metrics, *keys, *columns}:
        common = {key for row in rows for key in row.keys}
        if wanted in common:
            raise UserError(f"--sort: {wanted} is the same in all of these runs")
        choices = [*metrics, *sorted(columns), *keys]
        there = ", ".join(choices[:16]) + (", …" if len(choices) > 16 else "")
        raise UserError(f"--sort: no run has {wanted!r}{nearest(wanted, choices) or f'; there are {there}'}")
    return Comparison(_sorted(rows, wanted, modes), metrics, keys, wanted, modes)


def monitor(config: dict[str, Any]) -> str:
    """The metric by which a run's best checkpoint was chosen, by its name in a comparison."""
    found = part(config, "checkpoint").get("monitor")
    return same_name(found) if isinstance(found, str) else METRIC


def same_name(metric: str) -> str:
    """`val/loss` for `val/loss`, `val_loss` and `valid/loss`, which are one metric under the names of three modules."""
    found = STAGE.match(metric)
    return f"{STAGES[found[1][:2]]}/{metric[found.end() :]}" if found else metric


def _mode(metric: str, configs: Sequence[dict[str, Any]]) -> str:
    """Which way a metric is better: as a config that monitors it says, or by its name."""
    said = next((config for config in configs if monitor(config) == metric), {})
    return better_mode(str(part(said, "checkpoint").get("monitor") or metric), said)


def find_runs(places: Sequence[str], logs: Path) -> list[Path]:
    """The folders of the runs that are meant, each once.

    Raises:
        UserError: There are none.
    """
    if not places:
        found = list(run_folders(logs))
        if not found:
            raise UserError(f"no runs in {logs.resolve()}")
        return found
    found = []
    for place in places:
        here = next((list(run_folders(path)) for path in (Path(place), logs / place) if path.is_dir()), [])
        if not here:
            if Path(place).exists():
                raise UserError(f"no run {place!r}: there are no runs in it")
            raise unknown_run(place, logs)
        found += here
    return list({folder.resolve(): folder for folder in found}.values())


def read_row(folder: Path, logs: Path = LOGS, blocks: dict[str, Any] | None = None) -> Row:
    """What there is to say of a run; the log is read only where there is no summary."""
    row = Row(folder, folder.relative_to(logs).as_posix() if folder.is_relative_to(logs) else folder.as_posix())
    row.config = read_config(folder / "config.yaml", blocks)
    summary = read_json(folder / "summary.json")
    row.status = status(folder, row.config, summary)
    if row.status == "broken":
        row.why = why_broken(folder / "config.yaml")
    row.keys = {k: v for k, v in flat(row.config).items() if not k.startswith(PLACES)}
    found = read_json(folder / "doctor.json").get("findings")
    if isinstance(found, list):
        row.findings = [str(f.get("name")) for f in found if isinstance(f, dict) and not f.get("follows_from")]
    if summary:
        metrics = {**part(summary, "val"), **part(summary, "test")}
        numbers = {k: math.nan if v is None else float(v) for k, v in metrics.items() if not isinstance(v, str)}
        for name, value in numbers.items():  # a run may have `val_loss` beside `val/loss`, and both are to be seen
            same = same_name(name)
            row.metrics[name if same != name and same in numbers else same] = value
        row.seconds = _number(summary.get("seconds"))
        last = _number(summary.get("last_epoch"))
        row.epochs = None if last is None else int(last) + 1
    else:
        _from_log(
            row, read_log(folder, lambda name: name.startswith(("val", "train")) or name in ("epoch", "lr"), b"epoch")
        )
    return row


def _from_log(row: Row, log: Log) -> None:
    """The best values so far of a run without a summary."""
    row.seconds = log.seconds or None
    if len(log.epochs[0]):
        row.epochs = int(log.epochs[0].max()) + 1
    name = part(row.config, "checkpoint").get("monitor") or METRIC
    curve = log.curves.get(name)
    if curve is None or not np.isfinite(curve.values).any():
        return
    sign = 1 if better_mode(name, row.config) == "max" else -1
    best = curve.steps[np.where(np.isfinite(curve.values), sign * curve.values, -np.inf).argmax()]
    for name, other in log.curves.items():
        if name.startswith("val") and len(there := other.values[other.steps == best]):
            row.metrics[same_name(name)] = float(there[-1])


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def differing(configs: Iterable[dict[str, Any]]) -> list[str]:
    """The keys that are not the same in all configs, in the order of the configs.

    Keys of different classes that only one of them has are told by the class, and left out.
    """
    texts = [{key: repr(value) for key, value in config.items()} for config in configs]
    values = {
        key: {text.get(key, "None") for text in texts} for key in dict.fromkeys(k for text in texts for k in text)
    }
    found = {key for key, there in values.items() if len(there) > 1}

    def told_by_class(key: str) -> bool:
        owners = (key.rsplit(".", i)[0] for i in range(1, key.count(".") + 1))
        return len({text[key] for text in texts if key in text}) == 1 and any(owner in found for owner in owners)

    return [key for key in values if key in found and not told_by_class(key)]


def _sorted(rows: list[Row], by: str, modes: dict[str, str]) -> list[Row]:
    if by == "run":
        return rows
    sign = -1 if modes.get(by) == "max" else 1

    def place(row: Row) -> tuple[Any, ...]:
        found = cell(row, by)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return (2, 0.0, "") if math.isnan(found) else (0, sign * found, "")
        return (3, 0.0, "") if found is None else (1, 0.0, str(found))

    return sorted(rows, key=place)


def cell(row: Row, column: str) -> Any:
    """What stands in a column, as a value; None where there is nothing."""
    own = {"run": row.name, "status": row.status, "epochs": row.epochs, "time": row.seconds}
    if column in own:
        return own[column]
    if column == "findings":
        return None if row.findings is None else ", ".join(row.findings) or "none"
    return row.metrics.get(column, row.keys.get(column))


def written(row: Row, column: str) -> str:
    """What stands in a column, as a text."""
    value = cell(row, column)
    if column in row.metrics:
        return number(value)
    if column == "time":
        return "" if value is None else seconds(value)
    if column in ("run", "status", "epochs", "findings"):
        return "" if value is None else str(value).replace("_", " ") if column == "findings" else str(value)
    if column not in row.keys:
        return ""
    return str(short_class(value)) if isinstance(value, str) else shown(value)


def print_table(found: Comparison, console: Console) -> None:
    """Print the runs; what is too wide for a column of its own stands in a line below its run."""
    findings = ["findings"] * any(row.findings is not None for row in found.rows)
    columns = ["run", "status", *found.metrics, "epochs", "time", *findings, *found.keys]
    texts = {column: [_clipped(written(row, column)) for row in found.rows] for column in columns}
    widths = {column: max(len(column), *map(len, texts[column])) + 2 for column in columns}
    if not console.is_terminal:  # a pipe has no width
        console.width = sum(widths.values())
    room = console.width
    kept, below = list(columns), []
    # the keys together, since they belong together; then what is said least
    drops = [found.keys, findings, ["time"], *([name] for name in found.metrics[:0:-1]), ["epochs"], ["status"]]
    for drop in drops:
        if sum(widths[column] for column in kept) <= room:
            break
        kept = [column for column in kept if column not in drop or column == found.sort]
        below = [column for column in columns if column not in kept]
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=not below or len(kept) > 1
    )
    numbers = {*found.metrics, "epochs", "time"}
    for column in kept:
        table.add_column(
            column, justify="right" if column in numbers else "left", no_wrap=column != "run", overflow="fold"
        )
    lines = [[_styled(column, texts[column][i]) for column in kept] for i in range(len(found.rows))]
    if not below:
        for line in lines:
            table.add_row(*line)
        _print(console, table)
        _print_broken(found.rows, console)
        return
    usual = _usual(texts, [key for key in found.keys if key in below])
    # one table for all, so that the columns are as wide for each run, printed run by run
    width = {column: min(widths[column] - 2, room) for column in kept}
    spare = room - sum(width.values()) - 2 * (len(kept) - 1)
    if spare < 0:
        width["run"] = max(8, width["run"] + spare)
    _print_line(console, [Text(column, style="bold") for column in kept], kept, width, numbers)
    for i, line in enumerate(lines):
        _print_line(console, line, kept, width, numbers)
        # of a key that a run does not have it must not seem as if it had what most have
        said = [f"{column} {texts[column][i] or '-'}" for column in below if texts[column][i] != usual.get(column, "")]
        for text in _filled(said, room - 2):
            console.print(Text(f"  {text}", style="dim"), soft_wrap=True)
    if shown := [f"{column} {text}" for column, text in usual.items()]:
        console.print("\nand where nothing else is said")
        for text in _filled(shown, room - 2):
            console.print(Text(f"  {text}", style="dim"), soft_wrap=True)
    _print_broken(found.rows, console)


def _usual(texts: dict[str, list[str]], keys: Sequence[str]) -> dict[str, str]:
    """The value that most of the runs have, of the keys of which there is one."""
    counts = {key: Counter(texts[key]).most_common(1)[0] for key in keys}
    return {key: text for key, (text, count) in counts.items() if count > len(texts[key]) / 2 and text}


def _filled(items: Sequence[str], width: int) -> list[str]:
    """Lines with as many of the items as fit, two spaces between; one that is too long is folded."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines += [item[i : i + width] for i in range(0, len(item), width)]
    return lines


def _print_broken(rows: Sequence[Row], console: Console) -> None:
    broken = [row for row in rows if row.status == "broken"]
    for row in broken[:BROKEN]:
        console.print(Text(f"{row.folder} is broken: {row.why}", style="red"), soft_wrap=True)
    if len(broken) > BROKEN:
        console.print(Text(f"and {len(broken) - BROKEN} more", style="red"))


def _print(console: Console, what: Any) -> None:
    """Print without spaces at the ends of lines."""
    with console.capture() as captured:
        console.print(what)
    console.file.write(re.sub(r"[ ]+((?:\x1b\[0m)?)$", r"\1", captured.get(), flags=re.MULTILINE))


def _print_line(console: Console, cells: list[Text], kept: list[str], width: dict[str, int], numbers: set[str]) -> None:
    line = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in kept:
        side: Any = "right" if column in numbers else "left"
        line.add_column(justify=side, width=width[column], no_wrap=column != "run", overflow="fold")
    line.add_row(*cells)
    _print(console, line)


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN * 2 else f"{text[: SHOWN * 2 - 1]}…"


def _styled(column: str, text: str) -> Text:
    return Text(text, style=COLOURS.get(text, "") if column == "status" else "")


def write_html(found: Comparison, path: Path) -> None:
    """Write the runs as a page whose table can be sorted.

    Raises:
        UserError: There is a file that is not one of ours, or it can't be written.
    """
    check_ours(path)
    findings = ["findings"] * any(row.findings is not None for row in found.rows)
    columns = ["run", "status", *found.metrics, "epochs", "time", *findings, *found.keys]
    numeric = {*found.metrics, "epochs", "time"}
    rows = []
    for row in found.rows:
        page = row.folder / "report.html"
        link = page.resolve().as_uri() if page.is_file() else ""
        cells = [(column, written(row, column), _order(cell(row, column))) for column in columns]
        rows.append({"status": row.status, "link": link, "cells": cells})
    best = {
        name: (min if found.modes[name] == "min" else max)(values)
        for name in found.metrics
        if (values := [row.metrics[name] for row in found.rows if not math.isnan(row.metrics.get(name, math.nan))])
    }
    for row, line in zip(found.rows, rows, strict=True):
        line["best"] = [name for name, value in best.items() if row.metrics.get(name) == value]
    page_text = render(
        "compare.html",
        title=f"{len(rows)} runs",
        columns=columns,
        rows=rows,
        numeric=numeric,
        keys=found.keys,
        sort=found.sort,
        modes=found.modes,
    )
    try:
        write_whole(path, page_text)
    except OSError as error:
        raise UserError(f"--html: can't write {path}: {error.strerror or error}") from error


def _order(value: Any) -> str:
    """A value as the page's script sorts it."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
