"""For `reliability.py`: a training as Lightning's documentation has it, without anything of this project.

usage: python benchmarks/stock.py [--resume] [--workers 0] [--devices 1] [--steps N] [--pause S]

It trains in the working directory, and leaves its end in `final.ckpt`. With `--steps` it saves every N steps and
validates within epochs, too. `reliability.py` gives the same module and data to the project.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from tests.noisy import Noisy, NoisyData

EPOCHS, SAMPLES = 5, 40  # ten steps an epoch


class Net(Noisy):
    """Knows its optimizer and its schedule."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    seed_everything(0, workers=True)
    callbacks: list[Callback] = [EarlyStopping("val/loss", patience=10)]
    if given.steps:
        callbacks.append(ModelCheckpoint("checkpoints", monitor="val/loss"))
        callbacks.append(ModelCheckpoint("checkpoints", "{step}", every_n_train_steps=given.steps, save_last=True))
    else:
        callbacks.append(ModelCheckpoint("checkpoints", monitor="val/loss", save_last=True))
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=given.devices,
        strategy="ddp" if given.devices > 1 else "auto",
        callbacks=callbacks,
        logger=TensorBoardLogger(".", version=0),
        log_every_n_steps=3,
        val_check_interval=5 if given.steps else 1.0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = NoisyData(SAMPLES, num_workers=given.workers, pause=given.pause)
    trainer.fit(Net(), data, ckpt_path="last" if given.resume else None)
    trainer.save_checkpoint("final.ckpt")


if __name__ == "__main__":
    main()
