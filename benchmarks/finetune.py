"""What trained weights are worth: fine-tuning next to training the same network from scratch, on 200 labelled samples.

usage: python benchmarks/finetune.py [--seeds 3] [--samples 200]

configs/finetune.yaml (EfficientNet-Lite0 on digits) and configs/finetune_text.yaml (MiniLM on paragraphs of Python's
help) are trained on 200 samples of their training parts, each class having its share; which ones follows from the seed.
From scratch means `weights: null`, and nothing frozen or slowed down: all parameters have the whole learning rate, over
as many epochs. Validation and test parts are as they are.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import torch
from sklearn.model_selection import train_test_split

from datamodules import DigitImages, DocParagraphs

RECIPES = {"finetune": "FewDigits", "finetune_text": "FewParagraphs"}
WAYS = {"fine-tuned": [], "from scratch": ["--weights=null", "--parameters.groups=[]"]}


class Few:
    """Leaves some training samples.

    Args:
        samples: How many.
        few_seed: Which ones.
        kwargs: Of the datamodule.
    """

    parts: dict[str, Any]
    labels: torch.Tensor

    def __init__(self, samples: int = 200, few_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.samples, self.few_seed = samples, few_seed

    def load(self) -> None:
        super().load()  # type: ignore[misc]
        part = self.parts["train"]
        kept, _ = train_test_split(
            part.numpy(), train_size=self.samples, stratify=self.labels[part], random_state=self.few_seed
        )
        self.parts["train"] = torch.from_numpy(kept).sort().values


class FewDigits(Few, DigitImages):
    """Some of the digits."""


class FewParagraphs(Few, DocParagraphs):
    """Some of the paragraphs."""


def measured(recipe: str, way: list[str], seed: int, samples: int, folder: Path) -> dict[str, Any]:
    """The summary of one run."""
    command = [sys.executable, str(HOME / "scripts/fit.py"), "--config", str(HOME / f"configs/{recipe}.yaml")]
    command += [f"--data=benchmarks.finetune.{RECIPES[recipe]}", f"--data.samples={samples}", f"--data.few_seed={seed}"]
    command += [f"--seed_everything={seed}", "--name=run", *way]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    run = max(folder.glob("lightning_logs/run/version_*"), key=lambda path: int(path.name.split("_")[1]))
    return json.loads((run / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=200)
    given = parser.parse_args()
    print(f"{'recipe':14} {'':13} {'test acc':>8}  {'of each seed':{8 * given.seeds}} {'macro F1':>8}  {'seconds':>7}")
    for recipe in RECIPES:
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                found = [measured(recipe, way, seed, given.samples, Path(folder)) for seed in range(given.seeds)]
            each = [run["test"]["test/acc"] for run in found]
            shown = f"{'  '.join(f'{value:.4f}' for value in each):{8 * given.seeds}}"
            f1, seconds = (fmean(values) for values in zip(*map(_of_test, found), strict=True))
            print(f"{recipe:14} {name:13} {fmean(each):8.4f}  {shown} {f1:8.4f}  {seconds:7.1f}", flush=True)


def _of_test(summary: dict[str, Any]) -> tuple[float, float]:
    return summary["test"]["test/macro_f1"], summary["seconds"]


if __name__ == "__main__":
    main()
