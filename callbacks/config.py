"""The config in TensorBoard."""

from contextlib import suppress
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.tensorboard import log_hparams


class LogConfig(Callback):
    """Logs the config as text, and the hyper-parameters.

    Args:
        config: The complete config, in plain types.

    Attributes:
        text: The config as YAML.
        since: The step at which a run goes on; None for a new one.
        changed: Whether a run that goes on has another config than before: then it is logged again.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self.hparams = flat_hparams(config)
        self.since: int | None = None
        self.changed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero or not trainer.loggers:
            return
        logger = trainer.loggers[0]
        if isinstance(logger, TensorBoardLogger):
            with suppress(OSError):  # a disk that is full
                log_hparams(logger.log_dir, self.hparams)
                if not self.since or self.changed:
                    text = "".join(f"    {line}\n" for line in self.text.splitlines())
                    logger.experiment.add_text("config", text, self.since)


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
