"""LightningDataModules whose batches are batches of episodes."""

from few_shot.data.base import EpisodeDataModule, ImageEpisodes
from few_shot.data.cifar_fs import CifarFS
from few_shot.data.cub import CUB
from few_shot.data.curves import CurveEpisodes
from few_shot.data.fc100 import FC100
from few_shot.data.image_folders import ImageFolders
from few_shot.data.mini_imagenet import MiniImagenet
from few_shot.data.omniglot import Omniglot
from few_shot.data.sinusoid import Sinusoid
from few_shot.data.tiered_imagenet import TieredImagenet

__all__ = [
    "CUB",
    "FC100",
    "CifarFS",
    "CurveEpisodes",
    "EpisodeDataModule",
    "ImageEpisodes",
    "ImageFolders",
    "MiniImagenet",
    "Omniglot",
    "Sinusoid",
    "TieredImagenet",
]
