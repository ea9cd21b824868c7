"""What can be known to be wrong with the trainer's keys before anything heavy starts."""

import os
import re
from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from callbacks.doctor import DIAGNOSES
from runs.errors import UserError, nearest

ACCELERATORS = ("auto", "gpu", *sorted(AcceleratorRegistry.available_accelerators()))


def check_trainer(config: Any) -> None:
    """Check `trainer.max_epochs`, `accelerator`, `strategy` and `devices` against this machine.

    Raises:
        UserError: One of them can't be.
    """
    _check_length(config)
    _check_choice("trainer.accelerator", config.accelerator, ACCELERATORS)
    _check_choice("trainer.strategy", config.strategy, ("auto", *StrategyRegistry.available_strategies()))
    _check_devices(config)


def check_config(config: Any) -> None:
    """Check the keys beside the trainer's whose values Lightning takes as they come, or refuses late.

    Raises:
        UserError: One of them can't be.
    """
    seed, patience = config.seed_everything, config.early_stopping.patience
    if not 0 <= seed < 2**32:
        raise UserError(f"seed_everything: {seed} is outside [0, 4294967295]")
    if not re.fullmatch(r"[^/\\]*[^/\\.][^/\\]*", config.name):
        raise UserError(f"name: {config.name!r} is no name of a folder in lightning_logs/")
    if patience < 0:
        raise UserError(f"early_stopping.patience: {patience} is negative; a large number never stops early")
    for ignored in config.doctor.ignore:
        _check_choice("doctor.ignore", ignored, tuple(diagnosis.name for diagnosis in DIAGNOSES))
    for key in ("early_stopping", "checkpoint"):
        _check_choice(f"{key}.mode", config[key].mode, ("min", "max"))


def slow_bf16(config: Any) -> bool:
    """Whether bf16 is asked for on a CPU that has to emulate it."""
    on_cpu = config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available())
    wanted = str(config.precision).startswith("bf16") and not torch.backends.mps.is_available()
    return on_cpu and wanted and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def two_rates(config: Any) -> tuple[Any, Any] | None:
    """The optimizer's learning rate and another one that its schedule is given, which is the one that counts."""
    rates = [(config.get(key) or {}).get("init_args") or {} for key in ("optimizer", "lr_scheduler")]
    rate, most = rates[0].get("lr"), rates[1].get("max_lr")
    return None if most in (None, rate) or rate is None else (rate, most)


def _check_length(config: Any) -> None:
    for key in ("max_epochs", "max_steps"):
        value = config[key]
        if value is not None and value < 1 and not (key == "max_steps" and value == -1):
            raise UserError(f"trainer.{key}: {value} trains nothing; allowed are whole numbers from 1")


def _check_choice(key: str, value: Any, choices: tuple[str, ...]) -> None:
    if isinstance(value, str) and value not in choices:
        hint = nearest(value, choices) or f"; allowed are {', '.join(choices)}"
        raise UserError(f"{key}: {value!r} is unknown{hint}")


def _check_devices(config: Any) -> None:
    if config.accelerator in ("gpu", "cuda", "mps"):
        backend = "mps" if config.accelerator == "mps" or torch.backends.mps.is_available() else "cuda"
        there = torch.cuda.device_count() if backend == "cuda" else int(torch.backends.mps.is_available())
        kind = "GPU"
    elif config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available()):
        there, kind = max(2, os.cpu_count() or 1), "CPU process"
    else:
        there, kind = torch.cuda.device_count(), "GPU"
    if there == 0:
        raise UserError(
            f"trainer.accelerator: {config.accelerator!r}, and torch finds no {kind} here; allowed are auto, cpu"
        )
    devices = config.devices
    if devices in ("auto", -1, "-1"):
        return
    wanted: int | str | None = None
    if isinstance(devices, list):
        wanted = len(devices) if kind != "GPU" else max(devices, default=-1) + 1
    elif isinstance(devices, int) or str(devices).isdigit():
        wanted = int(devices)
    elif kind == "GPU":
        return  # "0,2": Lightning reads these
    if not isinstance(wanted, int) or not 1 <= wanted <= there:
        kinds = kind + ("es" if kind.endswith("s") else "s") * (there > 1)
        raise UserError(f"trainer.devices: {devices!r}, and there {'are' if there > 1 else 'is'} {there} {kinds} here; "
                        f"allowed are 1 to {there}, or auto")  # fmt: skip
