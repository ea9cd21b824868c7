"""The networks: plain `nn.Module`s that know nothing of Lightning."""

from modules.nets.cnn import CNN
from modules.nets.mlp import MLP

__all__ = ["CNN", "MLP"]
