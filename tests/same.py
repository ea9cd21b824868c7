"""Whether two runs are the same, bit for bit."""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

MEASURED = ("time/", "memory/")  # curves that no two runs have in common
# what a clock says, and what the config says of the end
TIMES = ("seconds", "validation_seconds", "samples_per_second", "events", "ends")


def differences(one: Path, other: Path) -> list[str]:
    """What is different between two runs' folders: checkpoints by name and content, logged values, summary."""
    found = []
    names = [sorted(p.name for p in run.joinpath("checkpoints").iterdir()) for run in (one, other)]
    if names[0] != names[1]:
        found.append(f"files {names[0]} and {names[1]}")
    for name in sorted(set(names[0]) & set(names[1])):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other)]
        found += [f"{name}: {place}" for place in unequal(*states)]
    found += [f"logged: {place}" for place in unequal(scalars(one), scalars(other))]
    if (one / "summary.json").exists() or (other / "summary.json").exists():
        summaries = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
        found += [f"summary: {place}" for place in unequal(*summaries)]
    return found


def unequal(a: Any, b: Any, place: str = "") -> list[str]:
    """The places at which two nested values differ, tensors and floats compared as bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in TIMES]
        missing = [f"{place}.{key} is only in one" for key in keys if (key in a) != (key in b)]
        return missing + [p for key in keys if key in a and key in b for p in unequal(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} entries"]
        return [p for i, pair in enumerate(zip(a, b, strict=True)) for p in unequal(*pair, f"{place}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(123), b.nan_to_num(123))
        return [] if same else [place]
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return []
    if place.endswith(("findings", "advice")):  # what the doctor advises names the folder
        a, b = (re.sub(r"--config \S+", "", text) for text in (a, b))
    return [] if type(a) is type(b) and a == b else [f"{place}: {a!r} and {b!r}"]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All logged values as they stand in TensorBoard's files, by name: steps and values, in the order of writing."""
    found: dict[str, list[tuple[int, float]]] = {}
    files = [list(EventFileLoader(str(path)).Load()) for path in run.glob("events.out.tfevents.*")]
    for events in sorted(files, key=lambda events: events[0].wall_time if events else 0):
        for event in events:
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars" and not value.tag.startswith(MEASURED):
                    number = float(tensor_util.make_ndarray(value.tensor))
                    found.setdefault(value.tag, []).append((event.step, number))
    return found
