"""What the recipes reach, over several seeds: test accuracy, seconds of training, seconds of the whole process.

usage: python benchmarks/recipes.py [--config configs/cnn.yaml] [--seeds 42 0 1 2 3] [--key value …]

examples:
  python benchmarks/recipes.py
  python benchmarks/recipes.py --config configs/cnn_mnist.yaml --seeds 42 0 1 --data.data_dir FOLDER
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(config: str, seed: int, more: list[str]) -> tuple[dict[str, float], float, float]:
    """Test metrics, seconds of the fit and seconds of the process, of one run in a folder of its own."""
    command = [sys.executable, str(ROOT / "scripts" / "fit.py"), "--config", config, f"--seed_everything={seed}", *more]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([*command, f"--trainer.default_root_dir={folder}"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        summary = json.loads(next(Path(folder).rglob("summary.json")).read_text())
    return summary["test"], summary["seconds"], seconds


def main() -> None:
    """Run one seed after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "cnn.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 0, 1, 2, 3])
    given, more = parser.parse_known_args()
    print(f"{Path(given.config).name}   test acc   test loss   fit s   process s")
    rows = []
    for seed in given.seeds:
        test, fit, process = run(given.config, seed, more)
        rows.append((test["test/acc"], test["test/loss"], fit, process))
        print(f"seed {seed:<6}  {rows[-1][0]:9.4f}  {rows[-1][1]:10.4f}  {fit:6.1f}  {process:10.1f}", flush=True)
    mean = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print(f"mean         {mean[0]:9.4f}  {mean[1]:10.4f}  {mean[2]:6.1f}  {mean[3]:10.1f}")


if __name__ == "__main__":
    main()
