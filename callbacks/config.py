"""The config, kept where the run is."""

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.tensorboard import log_hparams


class SaveConfig(Callback):
    """Writes `config.yaml` into the run's folder, and the same text and the hyper-parameters into TensorBoard."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self.hparams = flat_hparams(config)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or not trainer.loggers:
            return
        logger = trainer.loggers[0]
        if logger.log_dir:
            Path(logger.log_dir).mkdir(parents=True, exist_ok=True)
            Path(logger.log_dir, "config.yaml").write_text(self.text, encoding="utf-8")
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("config", "".join(f"    {line}\n" for line in self.text.splitlines()))
            log_hparams(logger.log_dir, self.hparams)


def flat_hparams(config: dict[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a config as `{"optimizer": "torch.optim.AdamW", "optimizer.lr": 0.003, …}`."""
    flat: dict[str, Any] = {"seed_everything": config["seed_everything"]}

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                visit(value, key if name in ("class_path", "init_args") else f"{key}.{name}")
        elif node is not None:
            flat[key] = node

    for key in ("model", "data", "optimizer", "lr_scheduler"):
        visit(config.get(key), key)
    for key in ("precision", "max_epochs", "accumulate_grad_batches", "gradient_clip_val"):
        visit(config["trainer"][key], f"trainer.{key}")
    return flat
