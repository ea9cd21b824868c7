"""The GPT recipe next to a hand-written loop in the manner of nanoGPT: how good after as many tokens, and how fast.

usage: python benchmarks/gpt.py [--steps 2000] [--rounds 3] [--key value …]

Both have 4 layers, 4 heads, a width of 128, a context of 64 and batches of 12, on the bytes of Python's help, of which
the last tenth is for validation. The loop is GPT-2 as nanoGPT trains it on a CPU (https://github.com/karpathy/nanoGPT,
its README's CPU command and config/train_shakespeare_char.py): learned positions, GELU, no biases, random windows,
AdamW with betas 0.9 and 0.99 and a weight decay of 0.1 on matrices, clipping at 1, 100 steps of warm-up to a learning
rate of 0.001, and half a cosine to a tenth of it. It does nothing but train. The recipe runs as `scripts/fit.py` does,
with all that it watches and writes; further keys are passed on to it. The validation loss is that of all windows of the
last tenth, for both.

First both train for all steps, and the recipe for half of them; then both train for half of them in turn, as often as
--rounds says, for the speeds, without their validations. The ratio is that of the medians.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules import PythonDocs

CONTEXT, BATCH, WIDTH, HEADS, DEPTH = 64, 12, 128, 4, 4


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.attend, self.end_attend = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.widen, self.end_widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (z.view(n, t, HEADS, -1).transpose(1, 2) for z in self.attend(self.first(x)).split(WIDTH, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.end_attend(mixed.transpose(1, 2).reshape(n, t, WIDTH))
        return x + self.end_widen(F.gelu(self.widen(self.second(x))))


class Reference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, 256, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * DEPTH) if ".end_" in name else 0.02)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.tokens(x) + self.places.weight[: x.shape[1]])))


def reference(steps: int) -> tuple[float, float]:
    """Validation loss after so many steps, and tokens a second."""
    data = PythonDocs(cache_dir=tempfile.mkdtemp())
    data.setup("fit")
    train = torch.from_numpy(data.parts["train"]).long()
    torch.manual_seed(1337)
    net = Reference()
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 1e-3, betas=(0.9, 0.99))
    started = time.perf_counter()
    for step in range(steps):
        share = (step - 100) / max(1, steps - 100)
        scale = (step + 1) / 101 if step < 100 else 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * scale
        windows = train[torch.randint(len(train) - CONTEXT, (BATCH, 1)) + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(net(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    speed = steps * BATCH * CONTEXT / (time.perf_counter() - started)
    net.eval()
    with torch.no_grad():
        losses = [
            (F.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="sum"), y.numel())
            for x, y in data.val_dataloader()
        ]
    return float(sum(loss for loss, _ in losses)) / sum(count for _, count in losses), speed


def recipe(steps: int, more: list[str]) -> tuple[float, float]:
    """The same, of configs/gpt.yaml."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, str(HOME / "scripts/fit.py"), "--config", str(HOME / "configs/gpt.yaml"), "--name=run"]
        line += [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={min(steps, 250)}", *more]
        subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads(Path(folder, "lightning_logs/run/version_0/summary.json").read_text())
    return summary["val"]["val/loss"], summary["samples_per_second"] * CONTEXT  # without the validations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", type=int, help=argparse.SUPPRESS)  # in a process of its own
    given, more = parser.parse_known_args()
    if given.reference:
        print(json.dumps(reference(given.reference)))
        return

    def loop(steps: int) -> tuple[float, float]:
        line = [sys.executable, __file__, "--reference", str(steps)]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
        loss, speed = json.loads(done.stdout.splitlines()[-1])
        return loss, speed

    print(f"{'':18} {'steps':>6} {'val loss':>9} {'tokens/s':>9}")
    for name, steps in (("hand-written loop", given.steps), ("recipe", given.steps), ("recipe", given.steps // 2)):
        loss, speed = loop(steps) if name != "recipe" else recipe(steps, more)
        print(f"{name:18} {steps:6} {loss:9.4f} {speed:9,.0f}", flush=True)
    speeds: dict[str, list[float]] = {"loop": [], "recipe": []}
    for _ in range(given.rounds):
        speeds["loop"].append(loop(given.steps // 2)[1])
        speeds["recipe"].append(recipe(given.steps // 2, more)[1])
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    ratio = medians["recipe"] / medians["loop"]
    print(f"in turn: loop {medians['loop']:,.0f}, recipe {medians['recipe']:,.0f} tokens/s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
