"""A page that shows pictures by their labels: one file, with small copies of the pictures in it."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from few_shot.data.pictures import preprocessing, read_file
from training.labels import NONE_OF_THESE, Labels
from training.page import page, text

#: Height and width of a small copy, in pixels: sharp at the width of a phone's third.
SIZE = 192

STYLE = """\
nav { display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 0; }
nav a { background: var(--card); border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .7rem;
  color: inherit; text-decoration: none; }
.learned { display: flex; flex-wrap: wrap; gap: .25rem; align-items: center; margin: 0 0 .75rem; }
.learned p { margin: 0 .4rem 0 0; }
.learned img { width: 2.5rem; height: 2.5rem; border-radius: .2rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .6rem; }
@media (min-width: 48rem) { .pictures { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); } }
figure img { display: block; width: 100%; aspect-ratio: 1; }
.sure { height: .25rem; background: var(--line); }
.sure div { height: 100%; background: var(--bar); }
"""


def as_page(labels: Labels, thumbnails: Sequence[str], learned_from: Mapping[str, Sequence[str]]) -> bytes:
    """The page, in HTML.

    Args:
        thumbnails: a small copy of each picture, of :func:`thumbnail`.
        learned_from: the same of each class's labelled pictures.
    """
    groups = labels.groups()
    numbered = list(enumerate(groups.items()))
    links = "".join(f'<a href="#g{i}">{text(name)} {len(members)}</a>' for i, (name, members) in numbered)
    sections = "\n".join(
        _section(f"g{i}", labels, name, members, thumbnails, learned_from) for i, (name, members) in numbered
    )
    intro = "<p>Each picture has its likeliest label, with the probability that the model gives it.</p>"
    if labels.threshold > 0:
        intro += f"<p>Below {100 * labels.threshold:.3g} %, a picture is {NONE_OF_THESE}.</p>"
    title = f"{len(labels.files)} {'picture' if len(labels.files) == 1 else 'pictures'} by label"
    return page(title, f"{intro}\n<nav>{links}</nav>\n{sections}", STYLE).encode()


def _section(
    anchor: str,
    labels: Labels,
    name: str,
    members: Sequence[int],
    thumbnails: Sequence[str],
    learned_from: Mapping[str, Sequence[str]],
) -> str:
    known = learned_from.get(name, ())
    learned = "".join(f'<img src="{picture}" alt="" loading="lazy">' for picture in known)
    figures = "".join(_figure(labels, i, name, thumbnails[i]) for i in members)
    return (
        f'<section id="{anchor}">\n<h2>{text(name)} <span>{len(members)}</span></h2>\n'
        + (f'<div class="learned"><p>learned from</p>{learned}</div>\n' if known else "")
        + (f'<div class="pictures">{figures}</div>\n' if members else "<p>no picture</p>\n")
        + "</section>"
    )


def _figure(labels: Labels, i: int, label: str, picture: str) -> str:
    row = labels.probabilities[i]
    order = np.argsort(-row, kind="stable")
    every = ", ".join(f"{labels.classes[c]} {_percent(row[c])}" for c in order[:10])
    # What else it could be, where that is not far off; of none of these, what comes nearest.
    others = order[:1] if label == NONE_OF_THESE else order[1:2]
    other = "".join(
        f"<br>{'or' if label != NONE_OF_THESE else 'nearest:'} {text(labels.classes[c])} {_percent(row[c])}"
        for c in others
        if row[c] >= 0.1
    )
    file = labels.files[i]
    best = "" if label == NONE_OF_THESE else f"<b>{_percent(row[order[0]])}</b> "
    return (
        f'<figure title="{text(every)}"><img src="{picture}" alt="{text(file)}" loading="lazy">'
        f'<div class="sure"><div style="width:{100 * row[order[0]]:.0f}%"></div></div>'
        f"<figcaption>{best}{text(file.name)}{other}</figcaption></figure>\n"
    )


def thumbnail(path: Path, size: int) -> str:
    """A small copy of a picture, its largest square, as an address that holds a JPEG.

    Args:
        size: height and width in pixels.

    Raises:
        BadPicture: it cannot be read.
    """
    pixels: NDArray = read_file(path, preprocessing((3, size, size), crop="center")).transpose(1, 2, 0)
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, "JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _percent(p: float) -> str:
    return f"{100 * p:.0f} %"
