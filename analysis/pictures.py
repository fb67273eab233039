"""Chart → SVG and PNG: the look that all charts share, and how a page takes them in."""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart, the light ones darkened until a
# thin line of them is seen on white. Each is a variable of the page, which has others for the dark.
INK = "#1b1f24"
MUTED = "#5c6670"
GRID = "#dde1e6"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#c98500", "#009e73", "#b8568c"
RED, SKY = "#d55e00", "#4a9cc9"
HOST_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)  # RED is for what is wrong
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    PURPLE: "purple",
    RED: "red",
    SKY: "sky",
}
_WIDTHS_IN = {"wide": 8.0, "narrow": 4.0}
_PNG_DOTS_PER_IN = 150
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_STYLE: Any = {  # matplotlib has a type for the names, another in each version
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,  # the unit stands above its axis, where it takes no width
    "axes.titlelocation": "left",
    "axes.titlesize": 8.5,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.borderpad": 0.0,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "lines.solid_capstyle": "round",
    "path.simplify": False,
    "svg.fonttype": "none",  # text stays text
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a host's name is one
    "xtick.color": MUTED,
    "xtick.labelsize": 8.5,
    "xtick.major.size": 0,
    "ytick.color": MUTED,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Chart:
    """A picture of some rows, and the words that go with it."""

    name: str  # of its files, and unique in a report
    title: str
    caption: str  # what to see, in one sentence
    description: str  # the key figures, for who cannot see it
    rows: list[dict[str, Any]]  # the data, all with the same keys
    draw: Callable[[Figure], None]  # on an empty figure, which may be narrow


def svg(chart: Chart, width: str) -> str:
    """Return a chart as an SVG document, `wide` or `narrow`; the same data give the same text."""
    target = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"{chart.name} {width}"}):
        figure = _drawn(chart, width)
        figure.savefig(target, format="svg", transparent=True, metadata=_NO_METADATA)
    return target.getvalue()


def png(chart: Chart) -> bytes:
    """Return a chart, wide and on white, as a PNG file."""
    target = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = _drawn(chart, "wide")
        figure.savefig(target, format="png", dpi=_PNG_DOTS_PER_IN, metadata={"Software": None})
    return target.getvalue()


def _drawn(chart: Chart, width: str) -> Figure:
    figure = Figure(figsize=(_WIDTHS_IN[width], 3.4), layout="constrained")
    chart.draw(figure)
    return figure


def is_narrow(figure: Figure) -> bool:
    """Tell whether a figure is one for a phone."""
    return figure.get_figwidth() < _WIDTHS_IN["wide"]


def for_page(document: str, description: str) -> str:
    """Return an SVG document as an element of a page whose style sheet gives its colours."""
    element = document[document.index("<svg") :].strip()
    element = re.sub(r'<g id="[^"]*_\d+"', "<g", element)  # which all charts have alike
    element = re.sub(r"<style.*?</style>", "", element, flags=re.DOTALL)  # it would be the page's
    element = re.sub(r'(<svg[^>]*?) width="\S+" height="\S+"', r"\1", element, count=1)
    label = html.escape(description)
    element = element.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    for colour, name in VARIABLES.items():
        element = element.replace(colour, f"var(--{name})")
    return element
