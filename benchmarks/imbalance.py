"""What a balanced sampler, class weights and focal loss do for rare classes: MNIST with 50 times as many 0 as 9.

usage: python benchmarks/imbalance.py [--data-dir data/mnist] [--seeds 3] [--epochs 40]

The training images are thinned out to 500 of the digit 0 and down to 10 of the digit 9, each digit having 50^(1/9)
times less than the one before it (the long tail of Cui et al. 2019, https://arxiv.org/abs/1901.05555); which ones
follows from the seed. The 10,000 test images are as they are. Each run is configs/cnn_mnist.yaml with batches of 64 and
no other key changed than the one in the table. Recall is the share of a digit's test images that are recognised.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import torch
from torch import Tensor

from datamodules import MNIST

MOST, TIMES = 500, 50
WAYS = {
    "as it is": [],
    "sampler balanced": ["--data.sampler=balanced"],
    "class_weights balanced": ["--model.class_weights=balanced"],
    "focal": ["--model.loss=focal"],
    "focal, class_weights balanced": ["--model.loss=focal", "--model.class_weights=balanced"],
}


class LongTail(MNIST):
    """MNIST with 500 images of 0, 10 of 9, and between them in equal ratios.

    Args:
        seed: Which images are kept.
    """

    def __init__(self, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed

    def load_train(self) -> tuple[Tensor, Tensor, list[str]]:
        images, labels, names = super().load_train()
        generator = torch.Generator().manual_seed(self.seed)
        kept = []
        for label in range(len(names)):
            members = (labels == label).nonzero()[:, 0]
            count = round(MOST * TIMES ** (-label / (len(names) - 1)))
            kept.append(members[torch.randperm(len(members), generator=generator)[:count]])
        chosen = torch.cat(kept)
        return images[chosen], labels[chosen], names


def measured(way: list[str], seed: int, data_dir: Path, epochs: int) -> dict[str, float]:
    """The test metrics of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HOME / "scripts/fit.py"), "--config", str(HOME / "configs/cnn_mnist.yaml")]
        command += ["--data=benchmarks.imbalance.LongTail", f"--data.data_dir={data_dir}", f"--data.seed={seed}"]
        command += ["--data.batch_size=64", f"--trainer.max_epochs={epochs}", f"--seed_everything={seed}", "--name=run"]
        subprocess.run([*command, *way], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        run = Path(folder, "lightning_logs/run/version_0")
        tested = subprocess.run(
            [sys.executable, "-c", RARE, str(run)], cwd=HOME, check=True, capture_output=True, text=True
        )
        return json.loads((run / "summary.json").read_text())["test"] | {"rare": float(tested.stdout)}


RARE = """
import sys
import torch
from runs import Run
module, data = Run(sys.argv[1]).load()
data.setup("test")
with torch.no_grad():
    images = data.test_images[data.test_labels >= 7]
    found = module(data.on_after_batch_transfer(images, 0)).argmax(1)
labels = data.test_labels[data.test_labels >= 7]
print(sum(float((found[labels == k] == k).float().mean()) for k in (7, 8, 9)) / 3)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/mnist"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    given = parser.parse_args()
    print(f"{'':30} macro recall          macro F1   recall of 7, 8, 9   accuracy")
    for name, way in WAYS.items():
        found = [measured(way, seed, given.data_dir.resolve(), given.epochs) for seed in range(given.seeds)]
        mean = {key: fmean(run[key] for run in found) for key in found[0]}
        spread = stdev(run["test/macro_recall"] for run in found) if len(found) > 1 else 0.0
        print(
            f"{name:30} {mean['test/macro_recall']:.4f} (std {spread:.4f})   {mean['test/macro_f1']:.4f}   "
            f"{mean['rare']:.4f}              {mean['test/acc']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
