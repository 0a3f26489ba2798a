"""A page that shows pictures by their labels: one file, with small copies of the pictures in it."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from few_shot.data.pictures import preprocessing, read_file
from training.labels import NONE_OF_THESE, Labels

#: Height and width of a small copy, in pixels: sharp at the width of a phone's third.
SIZE = 192

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #fff; --card: #f4f4f2; --text: #1c1c1a; --faint: #62625e; --line: #d8d8d4;
  --bar: #2f6fb3; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #161615; --card: #222220; --text: #ededea; --faint: #a3a39d;
  --line: #3a3a37; --bar: #6aa7e8; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--ground); color: var(--text);
  font: 1rem/1.45 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .25rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }}
h2 span, p, figcaption {{ color: var(--faint); font-weight: normal; }}
p {{ margin: .25rem 0; font-size: .9rem; }}
nav {{ display: flex; flex-wrap: wrap; gap: .4rem; margin: 1rem 0 0; }}
nav a {{ background: var(--card); border: 1px solid var(--line); border-radius: 1rem; padding: .15rem .7rem;
  color: inherit; text-decoration: none; }}
.learned {{ display: flex; flex-wrap: wrap; gap: .25rem; align-items: center; margin: 0 0 .75rem; }}
.learned p {{ margin: 0 .4rem 0 0; }}
.learned img {{ width: 2.5rem; height: 2.5rem; border-radius: .2rem; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: .6rem; }}
@media (min-width: 48rem) {{ .pictures {{ grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }} }}
figure {{ margin: 0; background: var(--card); border-radius: .4rem; overflow: hidden; }}
figure img {{ display: block; width: 100%; aspect-ratio: 1; }}
.sure {{ height: .25rem; background: var(--line); }}
.sure div {{ height: 100%; background: var(--bar); }}
figcaption {{ padding: .35rem .5rem .5rem; font-size: .78rem; line-height: 1.35; }}
figcaption b {{ color: var(--text); font-size: .95rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
{intro}
<nav>{links}</nav>
{sections}
</body>
</html>
"""


def as_page(labels: Labels, thumbnails: Sequence[str], learned_from: Mapping[str, Sequence[str]]) -> bytes:
    """The page, in HTML.

    Args:
        thumbnails: a small copy of each picture, of :func:`thumbnail`.
        learned_from: the same of each class's labelled pictures.
    """
    groups = labels.groups()
    numbered = list(enumerate(groups.items()))
    links = "".join(f'<a href="#g{i}">{_text(name)} {len(members)}</a>' for i, (name, members) in numbered)
    sections = "\n".join(
        _section(f"g{i}", labels, name, members, thumbnails, learned_from) for i, (name, members) in numbered
    )
    intro = "<p>Each picture has its likeliest label, with the probability that the model gives it.</p>"
    if labels.threshold > 0:
        intro += f"<p>Below {_percent(labels.threshold)}, a picture is {NONE_OF_THESE}.</p>"
    title = f"{len(labels.files)} {'picture' if len(labels.files) == 1 else 'pictures'} by label"
    return PAGE.format(title=title, intro=intro, links=links, sections=sections).encode()


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
        f'<section id="{anchor}">\n<h2>{_text(name)} <span>{len(members)}</span></h2>\n'
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
        f"<br>{'or' if label != NONE_OF_THESE else 'nearest:'} {_text(labels.classes[c])} {_percent(row[c])}"
        for c in others
        if row[c] >= 0.1
    )
    file = labels.files[i]
    best = "" if label == NONE_OF_THESE else f"<b>{_percent(row[order[0]])}</b> "
    return (
        f'<figure title="{_text(every)}"><img src="{picture}" alt="{_text(file)}" loading="lazy">'
        f'<div class="sure"><div style="width:{100 * row[order[0]]:.0f}%"></div></div>'
        f"<figcaption>{best}{_text(file.name)}{other}</figcaption></figure>\n"
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


def _text(words: object) -> str:
    return html.escape(str(words).encode(errors="replace").decode())
