"""What the monitor and the doctor cost: the same training with both, and without each of them, in turn.

usage: python benchmarks/monitoring.py [--rounds 7] [--case "tiny MLP"] [--key value …]

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
OFF = {"monitor": ["--monitor.every_n_steps=0"], "doctor": ["--doctor.enabled=false"]}
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
    parser.add_argument("--case", choices=CASES, help="one of the two only")
    given, more = parser.parse_known_args()
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(f"{'':12}{'':9}{'with ms':>10}{'without ms':>12}{'cost':>8}{'at most':>9}")
        for name, (args, epochs, most) in CASES.items():
            if given.case not in (None, name):
                continue
            step_ms([*args, *more], 2)  # warms up
            ways = [[], *OFF.values()]
            rows = []
            for number in range(given.rounds):  # in another order each time: what comes later is warmer
                order = [(place + number) % len(ways) for place in range(len(ways))]
                times = {which: step_ms([*args, *more, *ways[which]], epochs) for which in order}
                rows.append([times[which] for which in range(len(ways))])
            for place, what in enumerate(OFF, 1):
                cost = statistics.median(row[0] / row[place] - 1 for row in rows)
                a, b = (statistics.median(row[which] for row in rows) for which in (0, place))
                limit = f"{most:9.0%}" if what == "monitor" else ""
                print(f"{name:12}{what:9}{a:10.3f}{b:12.3f}{cost:8.1%}{limit}")


if __name__ == "__main__":
    main()
