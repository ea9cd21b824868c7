"""The LightningModules: model, loss and metrics."""

from modules.classifier import Classifier
from modules.regressor import Regressor

__all__ = ["Classifier", "Regressor"]
