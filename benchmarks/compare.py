"""Seconds to compare 500 runs, and to report on a run that has logged a million values.

usage: python benchmarks/compare.py [--runs 500] [--values 1000000]
"""

import argparse
import json
import random
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from runs import Run
from runs.compare import compare
from runs.report import write_report

SHARED = {f"option_{i}": [None, False, -1, "auto"][i % 4] for i in range(170)}


def make_run(folder: Path, number: int, unfinished: bool) -> None:
    """A folder as a fit leaves it: a config of some 300 lines, a log, and a summary if it is finished."""
    draw = random.Random(number)
    folder.mkdir(parents=True)
    values = {"width": draw.choice([16, 32]), **{f"size_{i}": i for i in range(60)}}
    config = {
        "seed_everything": number,
        "model": {"class_path": "modules.Classifier", "init_args": {"net": {"class_path": "Net", "init_args": values}}},
        "data": {"class_path": "datamodules.Digits", "init_args": {"batch_size": 64}},
        "trainer": SHARED,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 10 ** draw.uniform(-4, -1), "eps": 1e-08}},
        "checkpoint": {"monitor": "val/loss", "mode": "min", **{f"option_{i}": None for i in range(50)}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    best = draw.random()
    if unfinished:
        write_events(folder, 60_000, 60)
    else:
        summary = {"best_epoch": 28, "best_step": 560, "last_epoch": 29, "stopped": "at the end", "seconds": 6.0}
        metrics = {"val": {"val/loss": best, "val/acc": 1 - best}, "test": {"test/loss": best, "test/acc": 1 - best}}
        (folder / "summary.json").write_text(json.dumps({**summary, **metrics}))
    (folder / "doctor.json").write_text(json.dumps({"checked": ["overfitting"], "findings": [{"name": "overfitting"}]}))


def write_events(folder: Path, values: int, by_event: int) -> None:
    """A TensorBoard log of that many numbers; the checksums, which nobody here reads, are left 0."""
    names = [f"grad_norm/layer{i}" for i in range(by_event - 4)] + ["lr", "train/loss", "val/loss", "epoch"]
    names = names[-by_event:]
    draw = random.Random(0)
    with (folder / "events.out.tfevents.1700000000.host.1.0").open("wb") as file:
        for step in range(values // by_event):
            found = [Summary.Value(tag=name, simple_value=draw.random()) for name in names[:-1]]
            found.append(Summary.Value(tag=names[-1], simple_value=step // 20))
            data = Event(wall_time=1.7e9 + step / 10, step=step, summary=Summary(value=found)).SerializeToString()
            file.write(struct.pack("<QI", len(data), 0) + data + b"\0\0\0\0")


def seconds(work: Any) -> float:
    """How long that takes, the median of three times."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--values", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder, "lightning_logs")
        for number in range(given.runs):
            make_run(logs / f"recipe_{number % 10}" / f"version_{number}", number, unfinished=number % 20 == 0)
        lines = len((logs / "recipe_0" / "version_0" / "config.yaml").read_text().splitlines())
        taken = seconds(lambda: compare(logs=logs))
        print(
            f"{given.runs} runs, configs of {lines} lines, one in 20 unfinished   {taken:.2f} s  (required: at most 5)"
        )
        for by_event in (60, 4):
            run = logs / "large" / f"version_{by_event}"
            make_run(run, 0, unfinished=False)
            write_events(run, given.values, by_event)
            taken = seconds(lambda run=run: write_report(Run(run)))
            size = (run / "report.html").stat().st_size / 2**20
            print(f"report of {given.values:,} values, {by_event} in an event   {taken:.2f} s, {size:.1f} MB")


if __name__ == "__main__":
    main()
