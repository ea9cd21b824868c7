"""Seconds from the command to the end of the first training step, next to the bare import of LightningCLI.

usage: python benchmarks/startup.py [--rounds 7]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# both leave at once, without the half second in which Python clears up
IMPORT = [sys.executable, "-c", "from lightning.pytorch.cli import LightningCLI; import os; os._exit(0)"]
FIT = [
    *(sys.executable, str(ROOT / "scripts" / "fit.py"), "--config", str(ROOT / "configs" / "cnn.yaml")),
    *("--trainer.callbacks+", "benchmarks.first_step.LeaveAfterFirstStep"),
]


def seconds(command: list[str], folder: str) -> float:
    """How long a command takes; it must succeed."""
    started = time.perf_counter()
    done: Any = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - started


def main() -> None:
    """Measure in turn, print the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        seconds(FIT, folder)  # fills the disk cache
        pairs = [(seconds(IMPORT, folder), seconds(FIT, folder)) for _ in range(rounds)]
    bare, fit = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(f / b for b, f in pairs)
    print(f"bare import of LightningCLI   {bare:.2f} s")
    print(f"fit, to the first step        {fit:.2f} s")
    print(f"ratio                         {ratio:.2f}  (required: at most 1.3; medians of {rounds} rounds)")


if __name__ == "__main__":
    main()
