"""The config, kept where the run is."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from callbacks.tensorboard import log_hparams


class SaveConfig(Callback):
    """Writes `config.yaml` into the run's folder, and the same text and the hyper-parameters into TensorBoard.

    Args:
        config: The complete config, in plain types.
        since: The step at which a run goes on. The file that is there stays, unless the config has been changed; then
            it is kept as `config_until_step….yaml`.
    """

    def __init__(self, config: dict[str, Any], since: int | None = None) -> None:
        self.text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self.hparams = flat_hparams(config)
        self.since = since
        self.changed = False

    def write(self, folder: Path) -> None:
        """Write the file: before anything heavy starts, so that whatever ends the run, it is one.

        Raises:
            OSError: It can't be written.
        """
        path = folder / "config.yaml"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        if self.since is not None and before:
            if yaml.safe_load(before) == yaml.safe_load(self.text):
                return
            self.changed = True
            kept = path.with_name(f"config_until_step{self.since:06d}.yaml")
            if not kept.exists():  # otherwise nothing was trained with the one in between
                kept.write_text(before, encoding="utf-8")
        part = path.with_name(".config.yaml.part")
        part.write_text(self.text, encoding="utf-8")
        part.replace(path)

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
