"""The networks: plain `nn.Module`s that know nothing of Lightning."""

from modules.nets.cnn import CNN
from modules.nets.gpt import GPT
from modules.nets.mlp import MLP
from modules.nets.pretrained import Pretrained
from modules.nets.resnet import ResNet
from modules.nets.text_encoder import TextEncoder

__all__ = ["CNN", "GPT", "MLP", "Pretrained", "ResNet", "TextEncoder"]
