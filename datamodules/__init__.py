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
    from datamodules.doc_paragraphs import DocParagraphs
    from datamodules.labelled_texts import TextClassification
    from datamodules.table_sets import BreastCancer, Diabetes
    from datamodules.tables import Table, TableClassification, TableMultiLabel, TableRegression

__all__ = [
    "MNIST",
    "Augment",
    "BreastCancer",
    "Diabetes",
    "DigitImages",
    "Digits",
    "DocParagraphs",
    "ImageArrays",
    "ImageFolder",
    "PythonDocs",
    "Table",
    "TableClassification",
    "TableMultiLabel",
    "TableRegression",
    "Text",
    "TextClassification",
]


def __getattr__(name: str) -> Any:
    # pandas takes as long to import as a small run to start: only those who read tables wait for it
    if name in __all__:
        from datamodules import doc_paragraphs, labelled_texts, table_sets, tables

        files = (table_sets, tables, doc_paragraphs, labelled_texts)
        return next(getattr(file, name) for file in files if hasattr(file, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
