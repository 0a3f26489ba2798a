"""The style of all HTML pages: one file each, which asks nothing of the network, for phone and desk, light and dark."""

import html
import re
from pathlib import Path

from few_shot.figure_style import COLOURS, FAINT, INK, RULE, TRUTH

#: Each colour of a figure on a page, and what it becomes where the page is dark.
ON_PAGE = {
    INK: "--text",
    FAINT: "--faint",
    RULE: "--line",
    TRUTH: "--truth",
    "#ffffff": "--ground",
    **{colour: f"--series{i}" for i, colour in enumerate(COLOURS)},
}
DARK = ("#4d94ee", "#f0b840", "#f08a98", "#b4d4f5", "#b9975a", "#f6c3cd")

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ground: #fff; --card: #f4f4f2; --text: #1c1c1a; --faint: #62625e; --line: #d8d8d4;
  --bar: #2f6fb3; --truth: {truth}; {series} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #161615; --card: #222220; --text: #ededea; --faint: #a3a39d;
  --line: #3a3a37; --bar: #6aa7e8; --truth: #6b6b66; {dark} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--ground); color: var(--text);
  font: 1rem/1.45 system-ui, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .25rem; }}
h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }}
h2 span, p, figcaption {{ color: var(--faint); font-weight: normal; }}
p {{ margin: .25rem 0; font-size: .9rem; }}
figure {{ margin: 0; background: var(--card); border-radius: .4rem; overflow: hidden; }}
figcaption {{ padding: .35rem .5rem .5rem; font-size: .78rem; line-height: 1.35; }}
figcaption b {{ color: var(--text); font-size: .95rem; }}
{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def page(title: str, body: str, style: str) -> str:
    """A page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS of this kind of page alone.
    """
    light, dark = (" ".join(f"--series{i}: {c};" for i, c in enumerate(colours)) for colours in (COLOURS, DARK))
    return PAGE.format(title=text(title), body=body, style=style, truth=TRUTH, series=light, dark=dark)


def is_page(path: Path) -> bool:
    """Whether a file is a page that :func:`page` has made."""
    return path.is_file() and begins_with(path, PAGE.partition("{title}")[0].encode())


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file's first bytes are these."""
    with path.open("rb") as file:
        return file.read(len(start)) == start


def text(words: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(words).encode(errors="replace").decode())


def inline(svg: str, label: str) -> str:
    """A figure's SVG file as a part of a page, in the page's colours.

    Args:
        label: what a screen reader says.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z]+[a-z0-9]*_\d+"', "", svg)  # groups' names, which are the same in every figure
    for colour, variable in ON_PAGE.items():
        svg = re.sub(rf"{colour}\b", f"var({variable})", svg, flags=re.IGNORECASE)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{text(label)}" ', 1)
