"""The LightningDataModules: get, verify, split, batch, normalise, augment."""

from datamodules.augment import Augment
from datamodules.digits import Digits
from datamodules.images import ImageArrays
from datamodules.mnist import MNIST

__all__ = ["MNIST", "Augment", "Digits", "ImageArrays"]
