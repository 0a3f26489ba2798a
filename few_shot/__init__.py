"""few_shot: few-shot meta-learning (MAML and its family) on PyTorch Lightning."""

from few_shot.data import CUB, FC100, CifarFS, ImageFolders, MiniImagenet, Omniglot, Sinusoid, TieredImagenet
from few_shot.learner import ANIL, BOIL, IMAML, MAML, MAMLPlusPlus, MetaSGD, ProtoMAML, ProtoNet, Reptile, load

__all__ = [
    "ANIL",
    "BOIL",
    "CUB",
    "FC100",
    "IMAML",
    "MAML",
    "CifarFS",
    "ImageFolders",
    "MAMLPlusPlus",
    "MetaSGD",
    "MiniImagenet",
    "Omniglot",
    "ProtoMAML",
    "ProtoNet",
    "Reptile",
    "Sinusoid",
    "TieredImagenet",
    "load",
]
