"""What do all plots of the page have in common?

A figure is plain data that the page hands to plotly.js. plotly's own Python classes would take a second to import, and
would check at run time the names that mypy checks here.

Colours are names of the page's CSS variables, such as `var(--blue)`: the browser puts in those of its theme.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

Column = Sequence[float | str | None]


class Joined(TypedDict):
    """A column of parts, `join[i]` for each i of `order`, which the browser puts together."""

    join: list[list[float | None]]
    order: list[int]


class Repeated(TypedDict):
    """A column in which each entry of `repeat` stands `times` times; the browser writes it out."""

    repeat: list[int]
    times: list[int]


class Trace(TypedDict, total=False):
    """A trace, by plotly's names: https://plotly.com/javascript/reference/."""

    type: Literal["bar", "heatmap", "parcoords", "scatter"]
    name: str
    mode: str
    x: Column | Joined
    y: Column
    z: Sequence[Column]
    zmin: float
    zmax: float
    xgap: int
    ygap: int
    text: Sequence[Any]
    texttemplate: str
    textposition: str | list[str]
    textfont: dict[str, Any]
    customdata: Sequence[Any] | Repeated
    hovertemplate: str
    hoverinfo: str
    marker: dict[str, Any]
    line: dict[str, Any]
    error_x: dict[str, Any]
    error_y: dict[str, Any]
    opacity: float
    cliponaxis: bool
    orientation: Literal["h", "v"]
    width: float
    colorscale: list[tuple[float, str]]
    colorbar: dict[str, Any]
    dimensions: list[dict[str, Any]]
    labelfont: dict[str, Any]
    tickfont: dict[str, Any]
    rangefont: dict[str, Any]
    unselected: dict[str, Any]


class Axis(TypedDict, total=False):
    title: dict[str, str]
    type: Literal["linear", "log"]
    range: Sequence[float]
    rangemode: str
    autorange: str
    dtick: float
    nticks: int
    tickvals: Sequence[float]
    ticktext: Sequence[str]
    tickformat: str
    ticklabeloverflow: str
    side: str
    showgrid: bool


class Layout(TypedDict, total=False):
    """What a figure has besides `TEMPLATE`."""

    xaxis: Axis
    yaxis: Axis
    margin: dict[str, int]
    showlegend: bool
    shapes: list[dict[str, Any]]


class Figure(TypedDict, total=False):
    """A plot.

    Attributes:
        narrow: what takes the place of some values on a narrow screen, by path: `layout.xaxis.nticks`.
    """

    data: list[Trace]
    layout: Layout
    narrow: dict[str, Any]


def colour(name: str) -> str:
    return f"var(--{name})"


def titled(text: str) -> dict[str, str]:
    return {"text": text}


UNTITLED = titled("")  # leaves as much room as a title


def plain(text: str) -> str:
    """A name as it is, for texts in which plotly reads a little HTML."""
    return html.escape(text, quote=False)


def short(text: str, most: int = 26) -> str:
    """The text, shortened in its middle to at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 9]}…{text[-8:]}"


_AXIS = {
    "gridcolor": colour("grid"),
    "linecolor": colour("line"),
    "showline": True,
    "zeroline": False,
    "automargin": True,
    "ticks": "",
    "title": {"font": {"size": 12, "color": colour("soft")}, "standoff": 12},
}
# plotly's layout.template: the page has it once, and every figure takes from it what it does not say itself
TEMPLATE: dict[str, Any] = {
    "layout": {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 12, "color": colour("soft")},
        "hoverlabel": {
            "bgcolor": colour("card"),
            "bordercolor": colour("line"),
            "font": {"color": colour("text"), "size": 12},
            "align": "left",
        },
        "hovermode": "closest",
        "showlegend": False,
        "dragmode": "zoom",
        "legend": {
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"color": colour("text")},
            "itemclick": "toggle",
        },
        "margin": {"l": 8, "r": 14, "t": 12, "b": 8},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
}
