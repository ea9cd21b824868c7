"""Checkpoint files: whole or not there, checked before they are used, and nothing in them is ever executed."""

import dataclasses
import errno
import re
import zipfile
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Set, ValuesView
from datetime import timedelta
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import LightningDataModule, LightningModule

from runs.errors import UserError, one_line
from runs.files import whole_file


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's way to its checkpoint files, through `write_checkpoint` and `read_checkpoint`."""

    def __init__(self) -> None:
        self.known: tuple[Path, dict[str, Any]] | None = None  # a file that was read and checked already

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # weights only, whatever the caller says
        known, self.known = self.known, None
        return known[1] if known and known[0] == Path(path) else read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        if Path(path).is_file():  # Lightning's way looks for a file system of its own each time
            Path(path).unlink()
        else:
            super().remove_checkpoint(path)


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint by way of `whole_file`.

    Raises:
        OSError: It can't be written; what was at `path` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        try:
            torch.save(plain(state), file)
        except RuntimeError as error:  # torch's word for a disk that is full
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else OSError(errno.EIO, one_line(error)) from error


PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.Size, torch.dtype, torch.device}


def plain(value: Any) -> Any:
    """The same in types that can be read back without executing anything: tensors, numbers, texts, lists, dicts."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, torch.Tensor):
        own = not kind.__module__.startswith("torch")
        return value.as_subclass(torch.Tensor) if own else value  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        made = {
            key if type(key) in PLAIN else _plain_key(key): item if type(item) in PLAIN else plain(item)
            for key, item in value.items()
        }
        return kind(made) if kind in (OrderedDict, Counter) else made
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    if isinstance(value, list | Set | range | deque | ValuesView):
        return [plain(item) for item in value]
    return _plain_object(value)


def _plain_key(key: Any) -> Any:
    made = plain(key)
    try:
        hash(made)
    except TypeError:
        return tuple(made) if isinstance(made, list) else str(key)
    return made


def _plain_object(value: Any) -> Any:
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.ndarray):
        return _tensor(value) if value.dtype.kind in "biufc" else plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(float(value) if isinstance(value, np.longdouble) else value.item())
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    base: Any
    for base in (bool, int, float, str, bytes):  # subclasses of them
        if isinstance(value, base):
            return base(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "as_dict"):  # jsonargparse's Namespace
        return plain(value.as_dict())
    if isinstance(value, type) or callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return plain(vars(value)) if type(value).__name__ == "Namespace" else str(value)


def _tensor(array: np.ndarray) -> torch.Tensor:
    array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(array)
    except TypeError:  # long doubles
        return torch.from_numpy(array.astype(np.float64))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU; nothing in it is executed.

    Raises:
        UserError: The file is missing, damaged (its checksums do not fit), no checkpoint, or holds objects of Python
            that could run code.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or "state_dict" not in state:
        raise UserError(f"{path}: no checkpoint of this project, there is no `state_dict` in it")
    return state


def read_tensors(path: Path) -> Any:
    """What a file of torch holds, of tensors and plain values; nothing in it is executed.

    Raises:
        UserError: The file is missing or damaged, or holds objects of Python that could run code.
    """
    if re.match(r"\w+:/", str(path)):
        raise UserError(f"{path}: an address and not a file; fetch it first, from where you trust it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        _check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        if found := re.search(
            r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|Unsupported class) ([\w.]+)", str(error)
        ):
            raise UserError(
                f"{path}: refused: it holds {found[1]}; only tensors and plain values are read, anything else could "
                "run code"
            ) from error
        raise UserError(f"{path}: damaged, or no checkpoint ({path.stat().st_size:,} bytes)") from error


def _check_zip(path: Path) -> None:
    """Compare the checksums, which torch does not do when it loads."""
    if not zipfile.is_zipfile(path):
        return  # torch's format of before 2020, or damaged: torch says
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if file.getinfo(name).external_attr & 0x10:  # torch would take it for a folder, and leave memory as it was
                raise UserError(f"{path}: damaged: {name} says that it is a folder")
            if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
                raise UserError(f"{path}: refused: it has a file named {name!r} in it, which no checkpoint has")
        if bad := file.testzip():
            raise UserError(f"{path}: damaged: the checksum of {bad} does not fit")


def load_state(module: LightningModule, data: LightningDataModule | None, state: dict[str, Any], path: Path) -> None:
    """Put what a checkpoint holds into a module and its datamodule.

    Raises:
        UserError: The weights do not fit, with the first name at fault.
    """
    check_fits(module, state, path)
    module.load_state_dict(state["state_dict"])
    if data is not None and type(data).__qualname__ in state:  # where Lightning keeps a datamodule's state
        data.load_state_dict(state[type(data).__qualname__])


def check_fits(module: LightningModule, state: dict[str, Any], path: Path) -> None:
    """Compare the names and shapes of a checkpoint's weights with a module's.

    Raises:
        UserError: The weights do not fit, with the first name at fault.
    """
    own, found = module.state_dict(), state["state_dict"]
    if not isinstance(found, dict):
        raise UserError(f"{path}: no checkpoint of this project, its `state_dict` is no mapping")
    for name, value in own.items():
        if not isinstance(found.get(name), torch.Tensor):
            raise UserError(f"{path}: does not fit the config's model, {name} is not in it")
        if found[name].shape != value.shape:
            shapes = f"{tuple(found[name].shape)} and in the model {tuple(value.shape)}"
            raise UserError(f"{path}: does not fit the config's model, {name} is {shapes}")
    extra = next((name for name in found if name not in own), None)
    if extra:
        raise UserError(f"{path}: does not fit the config's model, which has no {extra}")
