"""The LightningModules: model, loss and metrics."""

from modules.classifier import Classifier

__all__ = ["Classifier"]
