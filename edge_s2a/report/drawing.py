"""Draws pictures as SVG for the page, and as PNG files."""

import io
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from edge_s2a.report.charts import LIGHT, Picture, Theme

PNG_DOTS_PER_INCH = 200
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def style(theme: Theme) -> dict[str, Any]:
    """Returns matplotlib's settings for a theme."""
    return {
        "font.family": "sans-serif", "font.size": 9.5, "text.color": theme.text,
        "text.parse_math": False,  # a class name may have dollar signs
        "figure.facecolor": theme.surface, "savefig.facecolor": theme.surface, "axes.facecolor": theme.surface,
        "axes.edgecolor": theme.grid, "axes.labelcolor": theme.faint, "axes.spines.top": False,
        "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": theme.grid, "grid.linewidth": 0.8, "xtick.color": theme.faint, "ytick.color": theme.faint,
        "xtick.major.size": 0, "ytick.major.size": 0, "xtick.major.pad": 5, "ytick.major.pad": 5,
        "lines.linewidth": 1.7, "lines.solid_capstyle": "round", "legend.frameon": False, "legend.fontsize": 8.5,
        "legend.handlelength": 1.4, "legend.columnspacing": 1.2, "legend.handletextpad": 0.5,
        "svg.fonttype": "none",  # the browser has fonts for scripts that matplotlib's lack
    }  # fmt: skip


def draw(picture: Picture, theme: Theme) -> Figure:
    """Draws a picture, to be saved under the same settings."""
    figure = Figure(figsize=picture.size, layout="constrained")
    picture.draw(figure.subplots(), theme)
    return figure


def saved(picture: Picture, theme: Theme, **options: Any) -> bytes:
    buffer = io.BytesIO()
    settings = {**style(theme), "svg.hashsalt": f"{picture.name}-{theme.name}"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that a font lacks
        draw(picture, theme).savefig(buffer, **options)
    return buffer.getvalue()


def png(picture: Picture) -> bytes:
    return saved(picture, LIGHT, format="png", dpi=PNG_DOTS_PER_INCH)


def inline_svg(picture: Picture, theme: Theme) -> str:
    """Returns an <svg> element whose identifiers occur once in a page, and which names no address."""
    text = saved(picture, theme, format="svg", metadata=NO_METADATA).decode()
    found = re.fullmatch(r'.*?<svg[^>]*?(viewBox="[^"]*")[^>]*>(.*)', text, re.DOTALL)
    assert found is not None, "matplotlib writes one <svg> element with its viewBox"
    view_box, body = found.groups()
    prefix = f"{picture.name}-{theme.name}-"
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # would hold for all of the page
    body = body.replace(' id="', f' id="{prefix}').replace("url(#", f"url(#{prefix}")
    body = body.replace('xlink:href="#', f'href="#{prefix}')
    return f'<svg {view_box} class="{theme.name}-figure" aria-hidden="true">{body.strip()}'
