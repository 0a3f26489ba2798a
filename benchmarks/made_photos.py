"""Draw pictures to try docs/your_own_photos.md with, where there are no photos at hand.

python benchmarks/made_photos.py

It makes photos/ (24 classes of 20), new_classes/ (3 other classes of 5) and inbox/ (30 pictures of those, and 3 of
a fourth) in the folder where it is run, or in --output; and photos.jpg, which shows some of photos/. Every picture is
drawn from --seed, and from nothing else.
"""

import argparse
import colorsys
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SHAPES = ("disc", "square", "triangle", "star", "ring", "cross", "moon")
PATTERNS = ("plain", "striped", "dotted", "checked")
NAMES = [f"{pattern} {shape}" for shape, pattern in itertools.product(SHAPES, PATTERNS)]  # 28
NEW = ("striped star", "dotted ring", "checked moon")
STRANGER = "plain cross"
SIDE = 160


def main(argv: Sequence[str] | None = None) -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", default=".", help="folder for the three folders (default: here)")
    parser.add_argument("--seed", type=int, default=0, help="decides the pictures (default: 0)")
    options = parser.parse_args(argv)
    root = Path(options.output)
    for name in ("photos", "new_classes", "inbox", "photos.jpg"):
        if (root / name).exists():  # somebody's own
            parser.error(f"{root / name} is there already: remove it, or draw into another folder with --output.")
    for name in NAMES:
        if name not in (*NEW, STRANGER):
            _save(name, [root / "photos" / name / f"{i:02}.jpg" for i in range(20)], options.seed)
    # A file's name says nothing of its class.
    inbox = iter(np.random.default_rng(options.seed).permutation(33).tolist())
    for name, examples, others in (*((name, 5, 10) for name in NEW), (STRANGER, 0, 3)):
        files = [root / "new_classes" / name / f"{i}.jpg" for i in range(examples)]
        _save(name, [*files, *(root / "inbox" / f"{next(inbox):02}.jpg" for _ in range(others))], options.seed)
    sheet(root / "photos", classes=8, pictures=3).save(root / "photos.jpg", quality=85)
    print(f"photos, new_classes and inbox are in {root.resolve()}")


def _save(name: str, paths: Sequence[Path], seed: int) -> None:
    rng = np.random.default_rng([seed, NAMES.index(name)])
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(name, rng).save(path, quality=85)


def sheet(folder: Path, classes: int, pictures: int) -> Image.Image:
    """Some classes of a folder, each a column of pictures."""
    side = 120
    whole = Image.new("RGB", (classes * (side + 4), pictures * (side + 4)), "white")
    for i, of_class in enumerate(sorted(folder.iterdir())[:: len(list(folder.iterdir())) // classes][:classes]):
        for j, path in enumerate(sorted(of_class.iterdir())[:pictures]):
            whole.paste(ImageOps.fit(Image.open(path), (side, side)), (i * (side + 4), j * (side + 4)))
    return whole


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """A picture of a class: its shape and pattern, in another place, size, light and format each time."""
    pattern, shape = name.split()
    hue = NAMES.index(name) * 0.618 % 1  # far from its neighbours'
    ink, second = (_colour(hue + rng.normal(0, 0.03), 0.75, value) for value in (rng.uniform(0.6, 0.95), 0.98))
    fill = Image.new("RGB", (SIDE, SIDE), ink)
    pen = ImageDraw.Draw(fill)
    for i, j in itertools.product(range(0, SIDE, 20), range(0, SIDE, 20)):
        if pattern == "striped" and j == 0:
            pen.rectangle((i, 0, i + 9, SIDE), fill=second)
        elif pattern == "dotted":
            pen.ellipse((i + 4, j + 4, i + 15, j + 15), fill=second)
        elif pattern == "checked" and (i + j) % 40 == 0:
            pen.rectangle((i, j, i + 19, j + 19), fill=second)
    turn, size = rng.uniform(-25, 25), int(rng.uniform(0.55, 0.95) * SIDE)
    mask = _mask(shape)
    fill, mask = (x.rotate(turn, Image.Resampling.BICUBIC).resize((size, size)) for x in (fill, mask))

    width, height = ((240, 180), (180, 240))[rng.integers(2)]
    ground = rng.normal(0, 1, (height // 12, width // 12, 3)) * 18 + rng.uniform(60, 200, 3)
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2 + rng.uniform(-0.1, 0.1) * SIDE) for side in (width, height))
    picture.paste(fill, (left, top), mask)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    pixels = np.asarray(picture) * rng.uniform(0.75, 1.1) + rng.normal(0, 7, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(hue: float, saturation: float, value: float) -> tuple[int, ...]:
    return tuple(round(255 * x) for x in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _mask(shape: str) -> Image.Image:
    """White where the shape is."""
    mask = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(mask)
    a, b = 20, SIDE - 20

    def corners(number: int, *radii: int) -> list[tuple[float, float]]:
        angles = (2 * math.pi * i / number - math.pi / 2 for i in range(number))
        middle = SIDE / 2
        return [(middle + r * math.cos(t), middle + r * math.sin(t)) for t, r in zip(angles, itertools.cycle(radii))]

    if shape in ("disc", "ring", "moon"):
        pen.ellipse((a, a, b, b), fill=255)
    if shape == "ring":
        pen.ellipse((a + 28, a + 28, b - 28, b - 28), fill=0)
    elif shape == "moon":
        pen.ellipse((a + 40, a - 10, b + 40, b - 10), fill=0)
    elif shape == "square":
        pen.rectangle((a + 5, a + 5, b - 5, b - 5), fill=255)
    elif shape == "triangle":
        pen.polygon(corners(3, 70), fill=255)
    elif shape == "star":
        pen.polygon(corners(10, 72, 30), fill=255)
    elif shape == "cross":
        pen.rectangle((a, 60, b, 100), fill=255)
        pen.rectangle((60, a, 100, b), fill=255)
    return mask


if __name__ == "__main__":
    main()
