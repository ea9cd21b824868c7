"""Samples drawn into a training, a validation and a test part."""

from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import train_test_split


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
