"""Figures as inline SVG, coloured by CSS variables of the page, whose theme they follow."""

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# CSS variable of the page → the colour that stands for it while matplotlib draws.
COLOURS = {"ink": "#1c1e21", "muted": "#5f6670", "rule": "#d9dce1", "paper": "#ffffff"}
COLOURS |= {"kept": "#2f6fab", "removed": "#c2410c", "merged": "#7a3fa0"}
HATCHES = {"kept": "", "removed": "////", "merged": "xxxx"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "text.color": COLOURS["ink"],
    "grid.color": COLOURS["rule"],
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
}


def style(salt: str) -> Any:
    """A block in which matplotlib draws as the page looks."""
    from matplotlib import rc_context

    # The salt keeps the ids of the page's figures apart, and the same from one rendering to the next.
    return rc_context({**STYLE, "svg.hashsalt": salt})


def figure(height: float, rows: int = 1, width: float = 9.0, **layout: Any) -> tuple["Figure", Any]:
    """Without pyplot, which would keep figures alive and choose a display."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    return drawn, drawn.subplots(rows, **layout)


def whole_numbers(axes: "Axes") -> None:
    """Ticks at whole numbers: of layers, of steps."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
    if not axes.yaxis_inverted():
        return
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def svg(drawn: "Figure", label: str, colours: Mapping[str, str] = COLOURS) -> "Markup":
    """The figure as an element of the page: no prologue, metadata or style that would reach beyond it."""
    from markupsafe import Markup

    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"(?<=<g) id=\"[^\"]*\"",
        r"font-family: [^;\"]*;?",
    ):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    for name, colour in colours.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))
