"""Matplotlib's figures as SVG inside an HTML page: in its colours, no identifier twice, no state left behind."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from io import BytesIO
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

# Figures are drawn in stand-in colours, #000001 and so on, which the page's CSS variables of these names replace.
_NAMES = ("ink", "muted", "line", "paper", "accent", "failed", "tone-0", "tone-1", "tone-2", "tone-3", "tone-4")
COLOUR = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, start=1)}
NUM_TONES = 5
"""`tone-0` to `tone-4`: from what matters least to what matters most."""

STYLE = {
    "axes.edgecolor": COLOUR["line"],
    "axes.grid": True,
    "axes.labelcolor": COLOUR["ink"],
    "axes.labelsize": 12,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,  # a point of the figure is a pixel of the page
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout everywhere
    "font.size": 12,
    "grid.color": COLOUR["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "metasr",
    "text.color": COLOUR["ink"],
    "text.parse_math": False,  # names and choices are anybody's text, and may hold dollar signs
    "xtick.color": COLOUR["muted"],
    "xtick.labelsize": 11,
    "ytick.color": COLOUR["muted"],
    "ytick.labelsize": 11,
}


def drawing_style() -> AbstractContextManager[None]:
    """Return the context in which figures are made: nobody's matplotlibrc, and afterwards as before."""
    return style.context(["default", STYLE])


def inline_svg(figure: Figure, name: str, label: str, tips: Mapping[str, str]) -> Markup:
    """Return a figure as an `<svg>` element.

    Args:
        figure: Drawn within `drawing_style`. What an artist with a `gid` draws gets it as its CSS class.
        name: Makes identifiers of this figure unlike those of the page's others.
        label: What those read or hear who do not see it.
        tips: By `gid`, what a pointer is told that rests on it.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(_in_page_colours(buffer.getvalue().decode()))
    width = float(root.attrib["viewBox"].split()[2])
    _simplify(root)
    _name_parts(root, name, tips)
    root.attrib = {
        "role": "img",
        "aria-label": label,
        "viewBox": root.attrib["viewBox"],
        "style": f"--natural-width: {width:.0f}px",
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # which escapes every text


def _in_page_colours(svg: str) -> str:
    names = {stand_in: name for name, stand_in in COLOUR.items()}
    return re.sub(
        "#0000[0-9a-f]{2}", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], svg
    )


def _simplify(root: ElementTree.Element) -> None:
    """Leave out what means nothing in a page: namespaces, metadata, and a style that would hold for all of it."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        for child in [child for child in element if child.tag.rpartition("}")[2] in ("metadata", "style")]:
            element.remove(child)


def _name_parts(root: ElementTree.Element, name: str, tips: Mapping[str, str]) -> None:
    """Turn the identifiers of artists into classes with tips; keep only those that something refers to."""
    referred = set(
        re.findall(r"#([\w-]+)", " ".join(value for part in root.iter() for value in part.attrib.values()))
    )
    for element in root.iter():
        identifier = element.attrib.pop("id", "")
        if identifier in referred:
            element.attrib["id"] = f"{name}-{identifier}"
        elif identifier in tips:
            element.attrib["class"] = identifier
            tip = ElementTree.Element("title")
            tip.text = tips[identifier]
            element.insert(0, tip)
        for key, value in element.attrib.items():
            element.attrib[key] = re.sub(r"^#|(?<=url\()#", f"#{name}-", value)
