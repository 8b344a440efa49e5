"""A matplotlib figure as SVG that is part of a page: it takes its colours and its font from the page's style."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup, escape

from histo_runtime.command import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that stand for variables of the page: nobody draws in almost black by accident.
INK, MUTED, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second"}
_DROPPED = {"metadata", "style"}  # licence of the drawing program; rules that would hold for the whole page
_REFERENCE = re.compile(r"#([\w.-]+)")
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")
STYLE: dict[Any, Any] = {  # keys that the stubs of matplotlib list one by one
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "histo-edge",  # the same figure, the same bytes
    "text.parse_math": False,  # a class may have a dollar in its name
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.6,
    "xtick.major.pad": 6,
    "ytick.major.pad": 5,
}


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """Return a figure as an `<svg>` element.

    Args:
        figure: drawn in the colours of this module.
        name: unique in the page; ids start with it.
        description: the figure in words, for those who can't see it.
    """
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    _tidy(root, name)
    for name_of_size in ("width", "height"):
        root.attrib.pop(name_of_size)
    text = ElementTree.tostring(root, encoding="unicode")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head, _, body = _FONT.sub(r"font-size: \1px", text).partition(">")
    label = escape(printable(description))
    return Markup(f'{head} role="img" aria-label="{label}">{body}')


def _tidy(root: ElementTree.Element, name: str) -> None:
    """Take names of XML away, drop what is not drawn, and keep only ids that are referred to, as the page's own."""
    for element in root.iter():
        for child in [child for child in element if _local(child.tag) in _DROPPED]:
            element.remove(child)
    elements = list(root.iter())
    values = (value for element in elements for value in element.attrib.values() if "#" in value)
    used = {found for value in values for found in _REFERENCE.findall(value)}
    for element in elements:
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        for key, value in attributes.items():
            if key == "id":
                attributes[key] = f"{name}-{value}"
            elif key == "href" or "url(#" in value:
                attributes[key] = _REFERENCE.sub(rf"#{name}-\1", value)
        element.attrib.clear()
        element.attrib.update(attributes)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
