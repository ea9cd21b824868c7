"""What saving costs: a recipe with and without it in turn; one large checkpoint, next to Lightning's way.

usage: python benchmarks/saving.py [--config configs/cnn.yaml] [--rounds 5] [--megabytes 100] [--key value …]
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch
from lightning.fabric.utilities.cloud_io import _atomic_save

from runs.checkpoints import read_checkpoint, write_checkpoint
from scripts.fitting import FitCLI
from scripts.main import quiet


def fit(args: list[str], saving: bool) -> tuple[float, float]:
    """Seconds of training, and those of them that the process itself has counted as saving."""
    cli = FitCLI([*args, f"--trainer.enable_checkpointing={str(saving).lower()}"])
    with contextlib.redirect_stdout(io.StringIO()):
        cli.fit()
    return cli.record.seconds, cli.last.seconds if cli.last else 0.0


def timed(work: Callable[..., Any], *args: Any) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work(*args)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "cnn.yaml"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    given, more = parser.parse_known_args()
    config = str(Path(given.config).resolve())
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        args = ["--config", config, *more]
        fit(args, True)  # warms up
        rows = [(*fit(args, True), fit(args, False)[0]) for _ in range(given.rounds)]
        on, inside, off = (statistics.median(column) for column in zip(*rows, strict=True))
        ratio = statistics.median(a / b for a, _, b in rows)
        share = statistics.median(b / a for a, b, _ in rows)
        print(f"{Path(config).name}, {given.rounds} rounds of each in turn, medians")
        print(f"  training with saving      {on:.2f} s")
        print(f"  training without          {off:.2f} s")
        print(f"  ratio                     {ratio:.3f}")
        print(f"  counted inside            {inside:.3f} s, {share:.1%} of the training (required: at most 3 %)")
        state = {"state_dict": {f"layer{i}": torch.randn(given.megabytes * 25_000) for i in range(10)}}
        path = Path("large.ckpt")
        large = [
            (
                timed(write_checkpoint, state, path),
                timed(_atomic_save, state, "stock.ckpt"),
                timed(read_checkpoint, path),
            )
            for _ in range(given.rounds)
        ]
        ours, stock, read = (statistics.median(column) for column in zip(*large, strict=True))
        print(f"one checkpoint of {path.stat().st_size / 1e6:.0f} MB")
        print(f"  write, brought to disk    {ours:.2f} s")
        print(f"  Lightning's way, without  {stock:.2f} s")
        print(f"  read, checksums compared  {read:.2f} s")


if __name__ == "__main__":
    main()
