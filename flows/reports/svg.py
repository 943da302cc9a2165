"""Elements, scales and styles of SVG figures.

Matplotlib is not used: its SVG of a 101-language plot has 80 kB against 25 kB here, its colours
cannot follow a dark page without rewriting, and one width does not suit both a desk and a phone.
Colours and fonts come from CSS variables; a stand-alone file contains its own copy.
"""

import dataclasses
import html
import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

#: CSS classes of a figure drawn twice, for wide and for narrow screens.
SCREENS = ("wide", "narrow")
FIGURE_VARIABLES = """:root{color-scheme:light dark;--paper:#fdfdfc;--ink:#1b1f24;--muted:#59616b;
--rule:#d8dce1;--base:#6a7380;--cand:#0b6a8f;--few:#c9d9e0;--mark:#9a4a0e;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans",Arial,sans-serif}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e7e9eb;--muted:#a2aab3;
--rule:#343a41;--base:#a9b1bb;--cand:#5dbbe0;--few:#2c4651;--mark:#e8a268}}
"""
FIGURE_STYLE = """.fig text{font:11px var(--sans);fill:var(--muted)}
.fig .halo{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.fig .ink{fill:var(--ink)}.fig .head{font-weight:600;fill:var(--ink)}
.fig .mark{fill:var(--mark);font-weight:600}.fig .end{text-anchor:end}.fig .mid{text-anchor:middle}
.fig .rule{stroke:var(--rule);fill:none}.fig .axis{stroke:var(--muted);fill:none}
.fig .ref{stroke:var(--ink);stroke-dasharray:3 3;fill:none}
.fig .median{stroke:var(--mark);stroke-width:2;fill:none}
.fig .bar{fill:var(--cand)}.fig .thin{fill:var(--few);stroke:var(--cand)}
.fig .hatch{stroke:var(--cand);stroke-width:1.6}.fig .box{stroke:var(--cand);fill:none}
.fig .b{fill:var(--paper);stroke:var(--base);stroke-width:1.6}.fig .c{fill:var(--cand)}
.fig .bl{stroke:var(--base);stroke-width:1.6;fill:none}
.fig .cl{stroke:var(--cand);stroke-width:1.8;fill:none}
.fig .bp{fill:var(--base)}.fig .link{stroke:var(--base);stroke-width:1}
.fig .h1{fill:var(--cand);opacity:.22}.fig .h2{fill:var(--cand);opacity:.45}
.fig .h3{fill:var(--cand);opacity:.72}.fig .h4{fill:var(--cand)}
.fig .ci{stroke:var(--cand);stroke-width:5;stroke-opacity:.28}
"""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure: its size in px, a description for people who cannot see it, and SVG elements."""

    width: int
    height: int
    title: str
    desc: str
    body: str


def on_screens(draw: Callable[..., Drawing]) -> list[Drawing]:
    """Draw a figure for wide and for narrow screens; `draw` takes its `width` and `height`."""
    return [draw(width=720, height=300), draw(width=340, height=240)]


def svgs_on_screens(draw: Callable[..., Drawing], name: str) -> list[Markup]:
    """Draw a figure for wide and for narrow screens, as elements of an HTML page."""
    return inline_svgs(on_screens(draw), name, SCREENS)


def inline_svg(drawing: Drawing, name: str, css: str = "") -> Markup:
    """Return the figure as an element of an HTML page; `name` makes its ids unique there."""
    return Markup(_svg(drawing, name, f'class="{f"fig {css}".strip()}"', ""))  # noqa: S704 - ours


def inline_svgs(
    drawings: Sequence[Drawing], name: str, classes: Sequence[str] = ()
) -> list[Markup]:
    """Return the drawings of figure `name` as SVG elements with the CSS classes in `classes`."""
    return [
        inline_svg(drawing, f"{name}{index}", css)
        for index, (drawing, css) in enumerate(
            zip(drawings, classes or itertools.repeat(""), strict=False)
        )
    ]


def standalone_svg(drawing: Drawing, name: str) -> str:
    """Return the figure as its own file."""
    style = f"<style>{FIGURE_VARIABLES}{FIGURE_STYLE}</style>"
    sheet = f'<rect width="{drawing.width}" height="{drawing.height}" fill="var(--paper)"/>'
    space = 'xmlns="http://www.w3.org/2000/svg" class="fig"'
    return _svg(drawing, name, space, style + sheet) + "\n"


def _svg(drawing: Drawing, name: str, attributes: str, prefix: str) -> str:
    return (
        f'<svg {attributes} viewBox="0 0 {drawing.width} {drawing.height}" '
        f'width="{drawing.width}" height="{drawing.height}" role="img" '
        f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{html.escape(drawing.title)}'
        f'</title><desc id="{name}-d">{html.escape(drawing.desc)}</desc>{prefix}'
        f"{drawing.body}</svg>"
    )


def arrange(drawings: Sequence[Drawing], columns: int, title: str, desc: str) -> Drawing:
    """Set drawings of one width in a grid, for a stand-alone file."""
    gap = 24
    width, height = drawings[0].width, max(drawing.height for drawing in drawings)
    rows = math.ceil(len(drawings) / columns)
    body = "".join(
        f'<g transform="translate({gap + index % columns * (width + gap)} '
        f'{gap + index // columns * (height + gap)})">{drawing.body}</g>'
        for index, drawing in enumerate(drawings)
    )
    columns = min(columns, len(drawings))
    return Drawing(gap + columns * (width + gap), gap + rows * (height + gap), title, desc, body)


def text(x: float, y: float, words: str, css: str = "") -> str:
    """Draw text; `words` are escaped."""
    css = f' class="{css}"' if css else ""
    return f'<text x="{px(x)}" y="{px(y)}"{css}>{html.escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Draw a straight line."""
    return f'<path class="{css}" d="M{px(x1)} {px(y1)}L{px(x2)} {px(y2)}"/>'


def rect(x: float, y: float, width: float, height: float, css: str = "", style: str = "") -> str:
    """Draw a rectangle with a CSS class or a style."""
    paint = f'style="{style}"' if style else f'class="{css}"'
    area = f'x="{px(x)}" y="{px(y)}" width="{px(width)}" height="{px(height)}"'
    return f"<rect {paint} {area}/>"


def px(value: float) -> str:
    """Format a coordinate to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def nice_ticks(low: float, high: float, most: int) -> tuple[list[float], int]:
    """Return at most `most` round values between `low` and `high`, and their number of decimals."""
    span = max(high - low, 1e-9)
    size = 10 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10, 20):
        step = factor * size
        if span / step < most:
            break
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + index) * step, 10) for index in range(count)], digits
