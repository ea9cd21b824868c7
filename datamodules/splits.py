"""Samples drawn into a training, a validation and a test part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

# what tables and folders call the parts
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
LEFT_OUT = "-"


@dataclass
class Samples:
    """Samples of classes, of which some may be the same.

    Attributes:
        keys: Of each of N samples; those of the same key are the same, and come into the same part. "" where it is
            not known.
        labels: `(N,)` int64.
        names: Of the classes.
        key: Of the config, for errors.
        word: What a sample is called.
    """

    keys: Sequence[str]
    labels: np.ndarray
    names: Sequence[str]
    key: str
    word: str

    def divide(self, given: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
        """The samples of `train`, `val` and `test`, sorted.

        Parts that nobody has given are drawn, each with its share of each class: of all samples, or, where only
        validation is missing, that one of the training samples.

        Args:
            given: Of each sample its part, "" where there is none, or `LEFT_OUT`.
            shares: Of the parts to be drawn.
            seed: The same one draws the same.

        Raises:
            ValueError: A class has too few samples, or a share is too small, for each part to have one of each class.
        """
        parts = {name: np.flatnonzero(given == name) for name in ("train", "val", "test")}
        if not any(map(len, parts.values())):
            return parts | self._draw(np.flatnonzero(given == ""), shares, seed)
        if not len(parts["val"]) and len(parts["train"]):
            return parts | self._draw(parts["train"], {"val": shares["val"]}, seed)
        return parts

    def contradictions(self) -> list[tuple[int, int]]:
        """Samples that have another label than the first one of their key, and that first one."""
        first: dict[str, int] = {}
        pairs = [(i, first.setdefault(key, i)) for i, key in enumerate(self.keys) if key]
        return [(i, earlier) for i, earlier in pairs if self.labels[i] != self.labels[earlier]]

    def leaks(self, parts: Mapping[str, np.ndarray]) -> dict[str, list[tuple[int, int]]]:
        """Samples of `val` and of `test` that are in `train`, too, and the one there; parts without are left out."""
        trained = {self.keys[i]: i for i in parts["train"].tolist()}
        pairs = {
            name: [(i, trained[self.keys[i]]) for i in parts[name].tolist() if self.keys[i] in trained]
            for name in ("val", "test")
            if name in parts
        }
        return {name: found for name, found in pairs.items() if found}

    def _draw(self, rest: np.ndarray, shares: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
        groups: dict[str, list[int]] = {}
        for i in rest.tolist():
            groups.setdefault(self.keys[i], []).append(i)
        first = np.array([members[0] for members in groups.values()], dtype=np.int64)
        counts = np.bincount(self.labels[first], minlength=len(self.names))
        needed = 1 + sum(map(bool, shares.values()))
        if counts.min() < needed:
            name, n = self.names[int(counts.argmin())], counted(int(counts.min()), self.word)
            raise ValueError(f"{self.key}: class {name!r} has {n}, and each of {needed} parts needs one")
        sizes, left = {name: round(share * len(first)) for name, share in shares.items()}, len(first)
        for name, size in sizes.items():
            left -= size
            if shares[name] and min(size, left) < len(self.names):
                raise ValueError(
                    f"data.{name}_fraction: {shares[name]} holds out {size} of {len(first)} {self.word}s, and each "
                    f"part needs at least one of each of the {len(self.names)} classes"
                )
        drawn = draw(first, sizes, self.labels[first], seed)
        return {
            name: np.sort(np.concatenate([groups[self.keys[i]] for i in chosen.tolist()]))
            for name, chosen in drawn.items()
        }


def counted(items: Sequence[str] | int, word: str) -> str:
    """How many there are, with the word."""
    n = items if isinstance(items, int) else len(items)
    return f"{n} {word}{'s' * (n != 1)}"


def check_fractions(val_fraction: float, test_fraction: float = 0.0) -> None:
    """Refuse shares that no parts can have.

    Raises:
        ValueError: `val_fraction` is outside (0, 1), `test_fraction` outside [0, 1), or both leave nothing to train on.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction: {val_fraction} is outside (0, 1)")
    if not 0 <= test_fraction < 1:
        raise ValueError(f"data.test_fraction: {test_fraction} is outside [0, 1)")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"data.val_fraction: {val_fraction} and test_fraction {test_fraction} leave nothing to train on"
        )


def draw(samples: np.ndarray, sizes: Mapping[str, int], strata: np.ndarray | None, seed: int) -> dict[str, np.ndarray]:
    """Parts of some samples, each sorted, and what is left of them as `train`.

    Args:
        samples: `(N,)` int64.
        sizes: Of each part that is drawn, in the order in which they are; a part of 0 is left out.
        strata: Groups of the samples `(N,)`, of which each part has its share; None for none.
        seed: The same one draws the same.
    """
    parts, places = {}, np.arange(len(samples))
    for name, size in sizes.items():
        if size:
            groups = None if strata is None else strata[places]
            places, held = train_test_split(places, test_size=size, stratify=groups, random_state=seed)
            parts[name] = np.sort(samples[held])
    return {"train": np.sort(samples[places]), **parts}
