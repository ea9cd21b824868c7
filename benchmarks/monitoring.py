"""What the monitor costs: the same training with and without it, in turn.

usage: python benchmarks/monitoring.py [--rounds 7] [--key value …]

The recipe cnn.yaml, and a tiny MLP on the same data. Milliseconds a step over the whole training without validation,
medians over the rounds, and the median of the ratios within a round.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from scripts.fitting import FitCLI  # isort: skip  (before torch: it sets how threads wait)
from scripts.main import quiet  # isort: skip  (before torch: it sets how threads wait)

CNN = ["--config", str(ROOT / "configs" / "cnn.yaml")]
MLP = [
    *CNN,
    "--model.net=modules.nets.MLP",
    "--model.net.width=32",
    "--model.net.depth=1",
    *(f"--data.augment.{key}=0" for key in ("shift", "rotate", "scale")),
]
CASES = {"cnn.yaml": (CNN, 30, 0.02), "tiny MLP": (MLP, 60, 0.05)}


def step_ms(args: list[str], epochs: int) -> float:
    """Milliseconds a step."""
    cli = FitCLI([*args, f"--trainer.max_epochs={epochs}", "--early_stopping.patience=9999"])
    with contextlib.redirect_stdout(io.StringIO()):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return 1000 * (cli.record.seconds - cli.record.validation_seconds) / cli.trainer.global_step


def main() -> None:
    """Measure in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given, more = parser.parse_known_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(f"{'':12}{'with ms':>10}{'without ms':>12}{'cost':>8}{'at most':>9}")
        for name, (args, epochs, most) in CASES.items():
            on, off = [*args, *more], [*args, *more, "--monitor.every_n_steps=0"]
            step_ms(on, 2)  # warms up
            rows = []
            for number in range(given.rounds):  # in alternating order: what comes second is warmer
                pair = [step_ms(which, epochs) for which in ((on, off) if number % 2 else (off, on))]
                rows.append(pair if number % 2 else pair[::-1])
            cost = statistics.median(a / b - 1 for a, b in rows)
            a, b = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{name:12}{a:10.3f}{b:12.3f}{cost:8.1%}{most:9.0%}")


if __name__ == "__main__":
    main()
