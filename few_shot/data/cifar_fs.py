"""CIFAR-FS (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136): CIFAR-100, its classes split at random."""

from functools import cache
from pathlib import Path

from few_shot.data.base import ImageEpisodes
from few_shot.data.cifar100 import HOW, SHAPE, download_cifar100, find_cifar100
from few_shot.data.image_store import ensure_store

# The folder itself comes last: it may hold another data set's classes.
FOLDERS = ("cifar_fs", "cifar-fs", "cifarfs", "cifar100", "")


@cache
def split_classes(split: str) -> tuple[str, ...]:
    """The CIFAR-100 names of a split's classes, sorted: 64 for training, 16 for validation, 20 for the test."""
    return tuple((Path(__file__).parent / "splits" / "cifar_fs" / f"{split}.txt").read_text().split())


class CifarFS(ImageEpisodes):
    """CIFAR-FS: CIFAR-100's classes of 600 images, 32×32, 64 classes to train, 16 to validate, 20 to test.

    It is looked for in a subfolder such as ``cifar_fs`` or ``cifar100`` and in ``data_dir``, in this order of forms:
    class folders ``{train,val,test}/<class>/*.png``, all of a split's classes or some; ``cifar-100-python.tar.gz``, the
    official archive, whose training and test images are pooled; that archive extracted. If there is none, the archive
    is downloaded. Class folders give the archive's very episodes if a picture of its test file is called
    ``test_<its name there>.png``, and one of its training file ``train_<its name there>.png``.
    """

    input_shape = image_shape = SHAPE

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "cifar_fs",
            SHAPE,
            find=lambda: find_cifar100("CIFAR-FS", self.data_dir, FOLDERS, split_classes),
            download=lambda: download_cifar100("CIFAR-FS", self.data_dir, FOLDERS),
            preprocessing=HOW,
        )
