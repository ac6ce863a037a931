"""Which plots does the page have, and what do they show? Those that compare studies are drawn here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from peftsweep.dashboard import formats, study_figures
from peftsweep.dashboard.plot_style import UNTITLED, Axis, Figure, Trace, colour, plain, short, titled
from peftsweep.scores import label

# after Okabe and Ito's colours, moved apart for those who see two primaries; each goes with a shape of its own
COLOURS = ("blue", "orange", "green", "red", "pink", "sky", "yellow")
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon")
NAME, NARROW_NAME = 30, 16  # characters of a study's name beside an axis
LEVEL = 0.05

Row = Mapping[str, Any]


def figures(rows: Row) -> dict[str, Figure]:
    """All plots of a page, by kind and place: `cost 0` of the first group, `slice 2.1` of the third study's second
    hyperparameter.

    Args:
        rows: `Comparison.as_dict()`.
    """
    found: dict[str, Figure] = {}
    by_study = {row["study"]: row for row in rows["leaders"]}
    methods = sorted({row["method"] for row in rows["leaders"] if row["method"]})
    for place, group in enumerate(rows["groups"]):
        if group["studies"]:
            found[f"cost {place}"] = cost(group, by_study, methods)
            found[f"parameters {place}"] = parameters(group, by_study, methods)
        if group["per_class"]:
            found[f"classes {place}"] = classes(group)
        if group["pairs"]:
            found[f"significance {place}"] = significance(group)
    for place, history in enumerate(rows["histories"]):
        found |= {f"{kind} {place}{inner}": figure for kind, inner, figure in study_figures.figures(history)}
    return found


def cost(group: Row, by_study: Mapping[str, Row], methods: Sequence[str]) -> Figure:
    return _trade(group, by_study, methods, "seconds", "cheapest", "seconds")


def parameters(group: Row, by_study: Mapping[str, Row], methods: Sequence[str]) -> Figure:
    return _trade(group, by_study, methods, "parameters", "smallest", "trainable parameters")


def _trade(
    group: Row, by_study: Mapping[str, Row], methods: Sequence[str], field: str, front: str, title: str
) -> Figure:
    """Score against what it costs, a trace for each method.

    Args:
        field: the cost in a study's row.
        front: the Pareto front in the group's row.
    """
    score, line = group["score"], [by_study[name] for name in group[front]]
    studies = [by_study[name] for name in group["studies"]]
    costs = [row[field] for row in studies if row[field] is not None]
    log = bool(costs) and max(costs) > 8 * min((cost for cost in costs if cost > 0), default=math.inf)
    figure: Figure = {
        "data": [
            {
                "x": [row[field] for row in line],
                "y": [row[score] for row in line],
                "mode": "lines",
                "hoverinfo": "skip",
                "line": {"color": colour("soft"), "dash": "dot", "width": 1.5, "shape": "hv"},
                "name": "Pareto front",
            }
        ],
        "layout": {
            "showlegend": True,
            "xaxis": {"title": titled(f"{title} (log)"), "type": "log", "dtick": 1}
            if log
            else {"title": titled(title), "type": "linear", "rangemode": "tozero"},
            "yaxis": {"title": titled(label(score))},
            "margin": {"r": 20},
        },
        "narrow": {},
    }
    for place, method in enumerate(methods):
        own = [row for row in studies if row["method"] == method]
        if own:
            named = {row["study"] for row in own if len(studies) <= 8 or row["study"] in group[front]}
            texts = [
                [plain(short(row["study"], most)) if row["study"] in named else "" for row in own] for most in (26, 16)
            ]
            figure["narrow"][f"data.{len(figure['data'])}.text"] = texts[1]
            trace = _marks(own, place, score, field, on_front=set(group[front]), middle=_middle(costs, log))
            trace["text"], trace["name"] = texts[0], plain(method)
            trace["hovertemplate"] = (
                f"<b>%{{customdata[0]}}</b><br>%{{customdata[1]}}<br>{label(score)} %{{y:.3g}}"
                f"<br>{title} %{{x:,.1~f}}<extra></extra>"
            )
            figure["data"].append(trace)
    return figure


def _marks(own: Sequence[Row], place: int, score: str, field: str, *, on_front: set[str], middle: float) -> Trace:
    """The studies of one method, with the intervals of their scores.

    Args:
        place: the method's, which has a colour and a shape.
        middle: of the axis: names stand to the left of marks beyond it.
    """
    bounds = [row["interval" if score == "macro_f1" else "interval_tuned"] or (row[score], row[score]) for row in own]
    trace: Trace = {
        "x": [row[field] for row in own],
        "y": [row[score] for row in own],
        "mode": "markers+text",
        "marker": {
            "symbol": SHAPES[place % len(SHAPES)],
            "size": 12,
            "color": colour(COLOURS[place % len(COLOURS)]),
            "line": {"width": 2, "color": colour("card")},
            "opacity": [1 if row["study"] in on_front else 0.65 for row in own],
        },
        "textposition": ["top left" if (row[field] or 0) > middle else "top right" for row in own],
        "textfont": {"color": colour("text"), "size": 12},
        "cliponaxis": False,
        "customdata": [[plain(str(row["study"])), plain(str(row["model"]))] for row in own],
    }
    if any(high > low for low, high in bounds):
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "thickness": 1,
            "width": 0,
            "color": colour("grey"),
            "array": [high - row[score] for (_, high), row in zip(bounds, own, strict=True)],
            "arrayminus": [row[score] - low for (low, _), row in zip(bounds, own, strict=True)],
        }
    return trace


def _middle(costs: Sequence[float], log: bool) -> float:
    """The middle of an axis, which begins at zero unless it is logarithmic."""
    return math.sqrt(min(costs) * max(costs)) if log else max(costs, default=0) / 2


def classes(group: Row) -> Figure:
    """F1 of each class at each study's best trial, as colours."""
    names, labels, z = list(group["per_class"]), group["labels"], list(group["per_class"].values())
    known = [value for row in z for value in row if value is not None]
    floor = math.floor(10 * min([*known, 0.9])) / 10
    ceiling = max(math.ceil(10 * max(known, default=0)) / 10, floor + 0.1)
    trace: Trace = {
        "type": "heatmap",
        "x": list(range(len(labels))),
        "y": list(range(len(names))),
        "z": z,
        "zmin": floor,
        "zmax": ceiling,
        "xgap": 2,
        "ygap": 2,
        "colorscale": [(0, colour("low")), (1, colour("high"))],
        "text": [["" if value is None else f"{value:.2f}" for value in row] for row in z],
        "customdata": [[[plain(name), plain(label)] for label in labels] for name in names],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]}: F1 %{text}<extra></extra>",
        "colorbar": {
            "title": {"text": "F1", "side": "top"},
            "thickness": 10,
            "outlinewidth": 0,
            "len": 1,
            "tickvals": [floor, ceiling],
            "tickformat": ".1f",
        },
    }
    if len(labels) <= 40:
        trace["texttemplate"] = "%{text}"
    x: Axis = {
        "title": UNTITLED,
        "tickvals": list(range(len(labels))),
        "ticktext": [plain(short(label, 20)) for label in labels],
        "side": "bottom",
        "showgrid": False,
    }
    y, narrow = _names_beside_axis(names)
    return {"data": [trace], "layout": {"xaxis": x, "yaxis": {**y, "autorange": "reversed"}}, "narrow": narrow}


def significance(group: Row) -> Figure:
    """Each study less the best of those tested, with its interval."""
    own = [pair for pair in group["pairs"] if pair["first"] == group["pairs"][0]["first"]]
    traces = [_differences(own, sure) for sure in (True, False)]
    y, narrow = _names_beside_axis([pair["second"] for pair in own])
    return {
        "data": [trace for trace in traces if trace["x"]],
        "layout": {
            "showlegend": True,
            "shapes": [
                {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1}
                | {"line": {"color": colour("soft"), "width": 1}}
            ],
            "xaxis": {
                "title": titled(f"difference in {label(group['score'])}"),
                "tickformat": "+.3~f",
                "nticks": 8,
            },
            "yaxis": {**y, "range": (len(own) - 0.4, -0.6)},
        },
        "narrow": narrow | {"layout.xaxis.nticks": 4},
    }


def _differences(pairs: Sequence[Row], sure: bool) -> Trace:
    """The pairs whose difference is significant, or those whose is not: the second study less the first."""
    places = [place for place, pair in enumerate(pairs) if (pair["p_holm"] < LEVEL) == sure]
    part = [pairs[place] for place in places]
    return {
        "x": [-pair["difference"] for pair in part],
        "y": places,
        "mode": "markers",
        "name": "different at 5 %" if sure else "no significant difference",
        "marker": {
            "symbol": "diamond" if sure else "circle",
            "size": 11,
            "color": colour("red" if sure else "blue"),
        },
        "error_x": {
            "type": "data",
            "symmetric": False,
            "thickness": 2,
            "width": 0,
            "array": [pair["difference"] - pair["low"] for pair in part],
            "arrayminus": [pair["high"] - pair["difference"] for pair in part],
        },
        "customdata": [
            [
                plain(pair["second"]),
                *(formats.signed(-pair[key]) for key in ("difference", "high", "low")),
                pair["p_holm"],
            ]
            for pair in part
        ],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{customdata[1]} (%{customdata[2]} to %{customdata[3]})<br>"
        "p %{customdata[4]:.2g}<extra></extra>",
    }


def _names_beside_axis(names: Sequence[str]) -> tuple[Axis, dict[str, Any]]:
    """An axis with a study's name at each place, and the shorter names of narrow screens."""
    texts = [[plain(short(name, most)) for name in names] for most in (NAME, NARROW_NAME)]
    axis: Axis = {
        "title": UNTITLED,
        "tickvals": list(range(len(names))),
        "ticktext": texts[0],
        "showgrid": False,
    }
    return axis, {"layout.yaxis.ticktext": texts[1]}
