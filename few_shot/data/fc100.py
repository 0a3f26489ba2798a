"""FC100 (Oreshkin et al. 2018, TADAM, https://arxiv.org/abs/1805.10123): CIFAR-100, split by its superclasses."""

from functools import cache
from pathlib import Path

from few_shot.data.base import ImageEpisodes
from few_shot.data.cifar100 import HOW, SHAPE, download_cifar100, find_cifar100
from few_shot.data.image_store import ensure_store

# The folder itself comes last: it may hold another data set's classes.
FOLDERS = ("fc100", "cifar100", "")


@cache
def split_classes(split: str) -> tuple[str, ...]:
    """The CIFAR-100 names of a split's classes, sorted: 60 for training, 20 for validation, 20 for the test."""
    return tuple((Path(__file__).parent / "splits" / "fc100" / f"{split}.txt").read_text().split())


class FC100(ImageEpisodes):
    """FC100: CIFAR-100's classes of 600 images, 32×32, 60 classes to train, 20 to validate, 20 to test.

    No superclass (people, insects, …) is in two splits, so that test classes are less like the training classes than
    those of CIFAR-FS are. It is looked for in a subfolder such as ``fc100`` or ``cifar100`` and in ``data_dir``, in the
    forms that :class:`CifarFS` reads. If there is none, the archive is downloaded.
    """

    input_shape = image_shape = SHAPE

    def build_store(self) -> Path:
        """Find or download the images, decode them once, and return the store's folder."""
        return ensure_store(
            self.data_dir,
            "fc100",
            SHAPE,
            find=lambda: find_cifar100("FC100", self.data_dir, FOLDERS, split_classes),
            download=lambda: download_cifar100("FC100", self.data_dir, FOLDERS),
            preprocessing=HOW,
        )
