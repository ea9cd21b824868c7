"""The LightningDataModules: get, verify, split, batch, normalise, augment."""

from typing import TYPE_CHECKING, Any

from datamodules.augment import Augment
from datamodules.digits import Digits
from datamodules.images import ImageArrays
from datamodules.mnist import MNIST

if TYPE_CHECKING:
    from datamodules.tables import BreastCancer, Diabetes, Table, TableClassification, TableRegression

__all__ = [
    "MNIST",
    "Augment",
    "BreastCancer",
    "Diabetes",
    "Digits",
    "ImageArrays",
    "Table",
    "TableClassification",
    "TableRegression",
]


def __getattr__(name: str) -> Any:
    # pandas takes as long to import as a small run to start: only those who train on tables wait for it
    if name in __all__:
        import datamodules.tables

        return getattr(datamodules.tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
