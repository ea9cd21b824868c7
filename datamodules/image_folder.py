"""Images in folders, or listed in a table."""

import csv
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.arrays import Sampler
from datamodules.augment import Augment
from datamodules.files import Fit, known_fit
from datamodules.image_cache import Cached, ImageCache
from datamodules.image_lists import Listed, list_folder, list_table
from datamodules.images import Images
from datamodules.names import in_order, nearest
from datamodules.splits import LEFT_OUT, Samples, check_fractions, counted


class ImageFolder(Images):
    """Images in `root/CLASS/`; or in `root/train/CLASS/`, `root/val/CLASS/`, `root/test/CLASS/`; or listed in a table.

    Each file is decoded once, by several threads, brought to one size, and kept as bytes in a file that is mapped into
    memory: later epochs and runs decode nothing, all processes share one copy, and a set may be larger than the memory.
    The cache is known by the content of the files: after a change only what is new is decoded. Files that can't be read
    are named and left out, up to `max_bad_files`.

    Parts that are not there as folders (or in the table) are drawn, seeded and stratified; images that are the same
    bit for bit come into the same part. Mean and standard deviation are those of the training part, per channel, unless
    they are given.

    Args:
        root: The folder.
        labels: A CSV or Parquet file with the columns `path` (relative to `root`) and `label`, and maybe `split`
            (train, val, test), in place of folders for the classes.
        path_column: Its column of paths.
        label_column: Its column of labels.
        split_column: Its column of parts, where it has one.
        size: Pixels to which images are brought, of both sides or height and width.
        channels: 1 for grey, 3 for colours.
        fit: How they are brought to that size: `crop` what is too much of the longer side, `pad` with black, or
            `stretch`.
        batch_size: Training images per step, over all devices together; 0 takes the whole training part.
        val_fraction: Share of the images that is held out for validation where no folder is, in (0, 1).
        test_fraction: Share that is held out for the test where there are no folders for parts at all, in [0, 1).
        split_seed: Which images are held out. Apart from `seed_everything`, so that runs with different seeds
            are measured on the same images.
        eval_batch_size: Images per batch in validation, test and prediction; changes speed and memory only.
        augment: Random changes of the training images.
        sampler: `balanced` trains with as many images of each class as of any other.
        mean: Of each channel, of values from 0 to 1, in place of that of the training part: what trained weights were
            trained with, `[0.485, 0.456, 0.406]` often.
        std: The same for the standard deviation.
        max_bad_files: Files that may be left out; with more of them the run does not begin.
        num_workers: Threads that decode; by default one for each core.
        cache_dir: Where the decoded images are.
    """

    def __init__(
        self,
        root: str,
        labels: str | None = None,
        path_column: str = "path",
        label_column: str = "label",
        split_column: str = "split",
        size: int | tuple[int, int] = 64,
        channels: Literal[1, 3] = 3,
        fit: Fit = "crop",
        batch_size: int = 64,
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        split_seed: int = 0,
        eval_batch_size: int = 256,
        augment: Augment = Augment(),  # noqa: B008 (frozen)
        sampler: Sampler = "shuffle",
        mean: list[float] | None = None,
        std: list[float] | None = None,
        max_bad_files: int = 10,
        num_workers: int | None = None,
        cache_dir: str = "data/cache",
    ) -> None:
        super().__init__(batch_size, val_fraction, split_seed, eval_batch_size, augment, sampler)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"data.size: {size} is no number of pixels, and no two of them")
        if channels not in (1, 3):
            raise ValueError(f"data.channels: {channels} is neither 1 (grey) nor 3 (colours)")
        check_fractions(val_fraction, test_fraction)
        for name, values, least in (("mean", mean, 0.0), ("std", std, 1e-6)):
            if values is not None and (len(values) != channels or min(values) < least):
                raise ValueError(f"data.{name}: {values}; allowed are {counted(channels, 'number')} from {least} on")
        if max_bad_files < 0:
            raise ValueError(f"data.max_bad_files: {max_bad_files} is below 0")
        if num_workers is not None and num_workers < 1:
            raise ValueError(f"data.num_workers: {num_workers} is below 1")
        self.root, self.table = Path(root).expanduser(), Path(labels).expanduser() if labels else None
        self.columns = (path_column, label_column, split_column)
        self.size, self.channels, self.fit = sides, channels, known_fit(fit)
        self.mean, self.std = mean, std
        self.test_fraction, self.max_bad_files = test_fraction, max_bad_files
        self.num_workers, self.cache_dir = num_workers, Path(cache_dir).expanduser()

    def part(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        return self.images, self.labels, self.parts[name]

    @property
    def has_test_data(self) -> bool:
        """Whether there is a test part."""
        if not hasattr(self, "parts"):
            self.load()
        return "test" in self.parts

    # ---- inside

    def list_images(self) -> Listed:
        """The images, their classes and parts, as folders or the table have them."""
        if self.table is not None:
            return list_table(self.table, self.root, *self.columns)
        return list_folder(self.root)

    def load(self) -> None:
        """Decode what is not decoded yet, divide the images, and learn their moments."""
        listed = self.list_images()
        if listed.strays:
            strays = counted(listed.strays, "image")
            _warn(f"{strays} of {self.root} in no class's folder, left out: {_few(listed.strays)}")
        threads = self.num_workers or len(_cores())
        cache = ImageCache(self.cache_dir, self.root, self.channels, self.size, self.fit, threads)
        cached = cache.open(listed.paths)
        self._check_bad_files(listed.paths, cached.reasons, cache.folder)
        names = self._facts.get("class_names") or _trained_classes(listed)
        if not names:
            raise ValueError(f"data.root: {self.root} has no images to train on")
        self.labels = self._label(listed, names)
        self.images = torch.from_numpy(cached.pixels)
        self.parts = self._divide(listed, cached, names)
        if not self._facts:
            found = _moments(cached.sums[self.parts["train"].numpy()], self.size)
            mean, std = (
                [255.0 * value for value in given] if given else own
                for given, own in zip((self.mean, self.std), found, strict=True)
            )
            self._facts = {
                "in_channels": self.channels,
                "image_size": list(self.size),
                "class_names": names,
                "fit": self.fit,
                "mean": mean,
                "std": std,
            }

    def _check_bad_files(self, paths: Sequence[str], reasons: dict[str, str], folder: Path) -> None:
        if not reasons:
            return
        listed = folder / "bad_files.csv"
        try:
            with listed.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("path", "reason"), *reasons.items()])
            where = f"; all of them: {listed}"
        except OSError:  # a cache that is only read
            where = ""
        few = _few([f"{path} ({reason})" for path, reason in reasons.items()])
        told = f"{len(reasons)} of {len(paths)} files of {self.root} can't be used: {few}"
        if len(reasons) > self.max_bad_files:
            raise ValueError(f"data.max_bad_files: {self.max_bad_files}, and {told}{where}")
        _warn(f"{told}{where if len(reasons) > 3 else ''}")

    def _label(self, listed: Listed, names: list[str]) -> Tensor:
        """The labels `(N,)` int64."""
        places = {name: place for place, name in enumerate(names)}
        for path, name in zip(listed.paths, listed.classes, strict=True):
            if name not in places:
                raise ValueError(f"data.root: {path} is of class {name!r}, which has no training{nearest(name, names)}")
        return torch.tensor([places[name] for name in listed.classes], dtype=torch.int64)

    def _divide(self, listed: Listed, cached: Cached, names: list[str]) -> dict[str, Tensor]:
        usable = np.array([path not in cached.reasons for path in listed.paths])
        shares = {"test": self.test_fraction, "val": self.val_fraction}
        samples = Samples(cached.hashes, self.labels.numpy(), names, "data.root", "image")
        pairs = [pair for pair in samples.contradictions() if usable[pair[0]]]
        if both := [f"{listed.paths[i]} and {listed.paths[earlier]}" for i, earlier in pairs]:
            _warn(f"{counted(both, 'image')} with two labels, in files that are the same: {_few(both)}")
        parts = samples.divide(np.where(usable, listed.parts, LEFT_OUT), shares, self.split_seed)
        self._check_parts(parts, names)
        for name, pairs in samples.leaks(parts).items():
            both = [f"{listed.paths[i]} is {listed.paths[trained]}" for i, trained in pairs]
            _warn(f"{counted(both, 'image')} of the {name} part among the training images: {_few(both)}")
        return {name: torch.from_numpy(parts[name]) for name in parts if name == "train" or len(parts[name])}

    def _check_parts(self, parts: dict[str, np.ndarray], names: list[str]) -> None:
        if self._facts:  # of a run that is done, which may be tested on images of other places
            return
        counts = np.bincount(self.labels.numpy()[parts["train"]], minlength=len(names))
        if len(names) < 2:
            raise ValueError(f"data.root: {self.root} has a single class, {names[0]!r}; each class needs a folder")
        if not counts.min():
            raise ValueError(f"data.root: class {names[int(counts.argmin())]!r} has no image to train on")


def _trained_classes(listed: Listed) -> list[str]:
    return in_order({name for name, part in zip(listed.classes, listed.parts, strict=True) if part in ("", "train")})


def _moments(sums: np.ndarray, size: tuple[int, int]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, from the sums of `Cached`; an all-equal channel gets 1."""
    total, squares = sums.sum(0).T / (len(sums) * size[0] * size[1])
    std = np.sqrt(np.maximum(squares - total**2, 0))
    return total.tolist(), np.where(std > 0, std, 1.0).tolist()


def _cores() -> Sequence[int]:
    return list(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + ", …" * (len(items) > 3)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
