"""The LightningDataModules: get, verify, split, batch, normalise, augment."""

from typing import TYPE_CHECKING, Any

from datamodules.augment import Augment
from datamodules.digit_images import DigitImages
from datamodules.digits import Digits
from datamodules.image_arrays import ImageArrays
from datamodules.image_folder import ImageFolder
from datamodules.mnist import MNIST
from datamodules.text import PythonDocs, Text

if TYPE_CHECKING:
    from datamodules.table_sets import BreastCancer, Diabetes
    from datamodules.tables import Table, TableClassification, TableRegression

__all__ = [
    "MNIST",
    "Augment",
    "BreastCancer",
    "Diabetes",
    "DigitImages",
    "Digits",
    "ImageArrays",
    "ImageFolder",
    "PythonDocs",
    "Table",
    "TableClassification",
    "TableRegression",
    "Text",
]


def __getattr__(name: str) -> Any:
    # pandas takes as long to import as a small run to start: only those who train on tables wait for it
    if name in __all__:
        from datamodules import table_sets, tables

        return getattr(table_sets if hasattr(table_sets, name) else tables, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
