"""Backbones: plain modules that have never heard of meta-learning.

Each takes ``input_shape`` (of one sample) and ``output_size`` first; a run fills these in from its data module.
"""

from few_shot.models.conv4 import Conv4
from few_shot.models.resnet12 import ResNet12
from few_shot.models.resnet_classifier import ResNetClassifier
from few_shot.models.sinusoid_mlp import SinusoidMLP
from few_shot.models.timm import Timm

__all__ = ["Conv4", "ResNet12", "ResNetClassifier", "SinusoidMLP", "Timm"]
