"""Small generated images, and where the real ones are."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from few_shot.episodes import SPLITS


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keeps the tests out of the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def images():
    """Random images of each split and class, uint8 [n, 84, 84, 3]: 2, 3 or 4 images in each of 3 classes."""
    rng = np.random.default_rng(0)
    return {
        split: {
            f"{split}_{c}": rng.integers(0, 256, (n, 84, 84, 3), dtype=np.uint8)
            for c, n in (("a", 4), ("b", 2), ("c", 3))
        }
        for split in SPLITS
    }


@pytest.fixture
def write_class_folders(images):
    """Write the images as {split}/<class>/<number>.png below a folder."""

    def write(root: Path) -> Path:
        for split, classes in images.items():
            for name, pictures in classes.items():
                (root / split / name).mkdir(parents=True)
                for i, picture in enumerate(pictures):
                    Image.fromarray(picture).save(root / split / name / f"{i}.png")
        return root

    return write


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real archives; never written to."""
    folder = Path(os.environ.get("FEW_SHOT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set FEW_SHOT_TEST_DATA to a folder with the archives")
    return folder


@pytest.fixture(scope="session")
def mini_imagenet_sample(real_data, tmp_path_factory) -> Path:
    """Class folders of real mini-ImageNet images, 30 of each class."""
    archive = real_data / "mini_imagenet_sample.zip"
    if not archive.is_file():
        pytest.skip(f"{archive} is missing")
    folder = tmp_path_factory.mktemp("mini_imagenet_sample")
    with zipfile.ZipFile(archive) as z:
        z.extractall(folder)
    return folder
