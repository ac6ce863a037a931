"""What do the plots of one study show?

Most of their columns are the same ones: the numbers and values of the trials of a state. `page` writes each once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from peftsweep.dashboard.plot_style import UNTITLED, Axis, Figure, Trace, colour, plain, short, titled
from peftsweep.scores import label
from peftsweep.trial_state import TrialState


class Look(NamedTuple):
    colour: str
    symbol: str
    dash: str


LOOKS = {
    TrialState.COMPLETE: Look("blue", "circle", "solid"),
    TrialState.PRUNED: Look("grey", "x-thin-open", "dot"),
    TrialState.FAILED: Look("red", "triangle-down", "dash"),
    TrialState.RUNNING: Look("green", "circle-open", "dashdot"),
}
MANY_DOTS, MANY_CURVES = 200, 60  # above which they are drawn lighter
# of curves: the last one lies on top
DRAWN_IN_ORDER = (TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING, TrialState.COMPLETE)
CLOSE = 1.6  # powers of ten in an axis, below which 2 and 5 get ticks, too
DIGITS = 5

History = Mapping[str, Any]


def figures(study: History) -> Iterator[tuple[str, str, Figure]]:
    """The plots of a study that has a score: kind, what follows the study's place, figure."""
    if all(value is None for value in study["values"]):
        return
    yield "trials", "", trials(study)
    yield "time", "", time(study)
    yield "curves", "", curves(study)
    if study["axes"]:
        yield "parallel", "", parallel(study)
    if study["axes"] and study["importance"]:
        yield "importance", "", importance(study)
    for place, axis in enumerate(study["axes"]):
        yield "slice", f".{place}", slice_of(study, axis)


def trials(study: History) -> Figure:
    """Each trial's value by its number, and the best so far."""
    return _course(study, study["numbers"], study["best_by_trial"], "trial")


def time(study: History) -> Figure:
    """Each trial's value by the time at which it ended, and the best so far."""
    last = max((at for at in study["ended"] if at is not None), default=0)
    unit, size = ("hours", 3600) if last > 7200 else ("minutes", 60) if last > 180 else ("seconds", 1)
    ended = [None if at is None else rounded(at / size) for at in study["ended"]]
    best = [(rounded(at / size), value) for at, value in study["best_by_time"]]
    return _course(study, ended, best, f"{unit} in which trials ran")


def _course(study: History, x: Sequence[float | None], best: Sequence[tuple[float, float]], title: str) -> Figure:
    stairs: Trace = {
        "x": [at for at, _ in best],
        "y": [value for _, value in best],
        "mode": "lines",
        "name": "best so far",
        "line": {"shape": "hv", "color": colour("orange"), "width": 2.5},
        "hovertemplate": "best %{y:.3f}<extra></extra>",
    }
    return {
        "data": [*_dots(study, x), stairs],
        "layout": {
            "showlegend": True,
            "xaxis": {"title": titled(title), "rangemode": "tozero"},
            "yaxis": _values_axis(study),
        },
    }


def _values_axis(study: History) -> Axis:
    return {"title": titled(label(study["objective"]))}


def _dots(study: History, x: Sequence[float | None], hover: str = "") -> list[Trace]:
    """A mark for each trial that has a value and a place, a trace for each state.

    Args:
        hover: a line more for a mark's text.
    """
    found = []
    for state, look in LOOKS.items():
        own = [
            i
            for i, value in enumerate(study["values"])
            if study["states"][i] == state and value is not None and x[i] is not None
        ]
        trace: Trace = {
            "x": [x[i] for i in own],
            "y": [study["values"][i] for i in own],
            "mode": "markers",
            "name": state,
            "cliponaxis": False,
            "marker": {
                "color": colour(look.colour),
                "symbol": look.symbol,
                "size": 7,
                "opacity": 0.5 if len(own) > MANY_DOTS else 0.85,
                "line": {"width": 1.5 if look.symbol == "x-thin-open" else 1},
            },
            "customdata": [study["numbers"][i] for i in own],
            "hovertemplate": f"trial %{{customdata}}: %{{y:.3g}}{hover}<extra>{state}</extra>",
        }
        if own:
            found.append(trace)
    return found


def curves(study: History) -> Figure:
    """Each trial's values over its epochs; the best trial stands out."""
    best = study["best_by_trial"][-1][1] if study["best_by_trial"] else math.inf
    first = next((i for i, value in enumerate(study["values"]) if _is_best(study, i, value, best)), None)
    states = study["states"]
    traces = [
        _curves(study, state, [i for i, each in enumerate(states) if each == state and i != first])
        for state in DRAWN_IN_ORDER
    ]
    if first is not None:
        trace = _curves(study, TrialState.COMPLETE, [first])
        trace["name"], trace["opacity"] = "best", 1
        trace["hovertemplate"] = trace["hovertemplate"].replace(TrialState.COMPLETE, "best")
        trace["line"] |= {"color": colour("orange"), "width": 3.5}
        traces.append(trace)
    return {
        "data": [trace for trace in traces if trace["y"]],
        "layout": {"showlegend": True, "xaxis": {"title": titled("epoch")}, "yaxis": _values_axis(study)},
    }


def _is_best(study: History, place: int, value: float | None, best: float) -> bool:
    return study["states"][place] == TrialState.COMPLETE and value is not None and abs(value - best) < 2e-5


def _curves(study: History, state: TrialState, places: Sequence[int]) -> Trace:
    """One trace for all trials of a state, with gaps between them: a browser draws a thousand traces in minutes."""
    own = [i for i in places if study["curves"][i]]
    many, look = len(study["curves"]) > MANY_CURVES, LOOKS[state]
    return {
        "x": {"join": [[*epochs, None] for epochs in study["ladders"]], "order": [study["ladder"][i] for i in own]},
        "y": [value for i in own for value in (*study["curves"][i], None)],
        "customdata": {
            "repeat": [study["numbers"][i] for i in own],
            "times": [len(study["curves"][i]) + 1 for i in own],
        },
        "mode": "lines+markers",
        "name": state,
        "opacity": 0.35 if many else 0.75,
        "line": {"color": colour(look.colour), "dash": look.dash, "width": 1.2 if state == TrialState.PRUNED else 1.6},
        "marker": {"size": 3 if many else 5, "symbol": "x" if look.symbol == "x-thin-open" else look.symbol},
        "hovertemplate": f"trial %{{customdata}}: %{{y:.3f}}<extra>{state}</extra>",
    }


def parallel(study: History) -> Figure:
    """A line for each trial that has every hyperparameter, across an axis for each, coloured by its value."""
    axes = study["axes"]
    own = [
        i
        for i, value in enumerate(study["values"])
        if value is not None and all(axis["values"][i] is not None for axis in axes)
    ]
    values = [study["values"][i] for i in own]
    dimensions = [_dimension(axis, own) for axis in axes] if own else []
    trace: Trace = {
        "type": "parcoords",
        "dimensions": [*dimensions, {"label": label(study["objective"]), "values": values}],
        "labelfont": {"color": colour("text"), "size": 12},
        "tickfont": {"color": colour("soft"), "size": 11},
        "rangefont": {"color": "rgba(0,0,0,0)"},
        "unselected": {"line": {"color": colour("grey"), "opacity": 0.12}},
        "line": {
            "color": values,
            "colorscale": [(0, colour("grid")), (0.5, colour("sky")), (1, colour("high"))],
            "showscale": False,
        },
    }
    return {"data": [trace], "layout": {"margin": {"l": 60, "r": 60, "t": 48, "b": 24}}}


def _dimension(axis: Mapping[str, Any], own: Sequence[int]) -> dict[str, Any]:
    scaled = _scale(axis)
    at, texts = ticks(axis)  # plotly shows these as they are: no HTML is read in them
    ticked = {"tickvals": [rounded(scaled(mark)) for mark in at], "ticktext": texts} if texts else {}
    return {
        "label": plain(short(axis["name"], 18)),
        "range": [rounded(scaled(axis["low"])), rounded(scaled(axis["high"]))],
        "values": [rounded(scaled(axis["values"][i])) for i in own],
    } | ticked


def importance(study: History) -> Figure:
    """Each hyperparameter's share, the highest on top."""
    shares = dict(reversed(study["importance"].items()))
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": list(shares.values()),
        "y": list(range(len(shares))),
        "width": 0.55,
        "marker": {"color": colour("blue"), "cornerradius": 3},
        "text": [f"{share:.2f}" for share in shares.values()],
        "textposition": "outside",
        "textfont": {"color": colour("text")},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    names = [plain(short(name, 22)) for name in shares]
    return {
        "data": [trace],
        "layout": {
            "xaxis": {"title": titled("share"), "range": (0, max(shares.values()) * 1.15)},
            "yaxis": {"title": UNTITLED, "tickvals": list(range(len(shares))), "ticktext": names, "showgrid": False},
        },
    }


def slice_of(study: History, axis: Mapping[str, Any]) -> Figure:
    """Each trial's value by one hyperparameter. Marks of a choice are moved apart a little."""
    choice, name = axis["scale"] == "choice", plain(axis["name"])
    log, scaled = axis["scale"] in ("log", "log2"), _scale(axis)
    apart = [((number * 0.618034) % 1 - 0.5) * 0.35 if choice else 0 for number in study["numbers"]]
    x = [
        None if value is None else rounded(value + more) if choice else value
        for value, more in zip(axis["values"], apart, strict=True)
    ]
    low, high = scaled(axis["low"]), scaled(axis["high"])
    room = 0.6 if choice else 0.06 * (high - low) or 0.5
    at, texts = ticks(axis)
    own: Axis = {
        "title": titled(name),
        "type": "log" if log else "linear",
        "range": (low - room, high + room),
        "ticklabeloverflow": "allow",
    }
    if texts:
        own |= {"tickvals": at, "ticktext": [plain(text).replace("_", "_<br>" if choice else "_") for text in texts]}
    hover = "" if choice else f"<br>{name} %{{x:.3g}}"
    return {"data": _dots(study, x, hover), "layout": {"xaxis": own, "yaxis": _values_axis(study)}}


def ticks(axis: Mapping[str, Any]) -> tuple[list[float], list[str]]:
    """Places and texts of an axis's ticks; none where plotly's own will do."""
    if axis["scale"] == "choice":
        return list(range(len(axis["choices"]))), [short(choice, 16) for choice in axis["choices"]]
    if axis["scale"] == "linear":
        return [], []
    base = 2 if axis["scale"] == "log2" else 10
    low, high = math.log(axis["low"], base), math.log(axis["high"], base)
    steps = (1, 2, 5) if base == 10 and high - low < CLOSE else (1,)
    marks = [
        float(f"{step * base**power:.3g}")
        for power in range(math.floor(low + 1e-9), math.ceil(high - 1e-9) + 1)
        for step in steps
    ]
    marks = [mark for mark in marks if 0.999 * axis["low"] <= mark <= 1.001 * axis["high"]]
    return marks, [_number(mark) for mark in marks]


def _number(mark: float) -> str:
    """0.0002 as 2e-4, and 0.02 as it is."""
    digit, _, exponent = f"{mark:.0e}".partition("e")
    return f"{digit}e{int(exponent)}" if mark < 1e-3 else f"{mark:.10g}"


def _scale(axis: Mapping[str, Any]) -> Callable[[float], float]:
    return math.log10 if axis["scale"] in ("log", "log2") else float


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
