"""The LightningModules: model, loss and metrics."""

from modules.classifier import Classifier
from modules.language_model import LanguageModel
from modules.multi_label_classifier import MultiLabelClassifier
from modules.regressor import Regressor
from modules.schedules import CosineWithWarmup

__all__ = ["Classifier", "CosineWithWarmup", "LanguageModel", "MultiLabelClassifier", "Regressor"]
