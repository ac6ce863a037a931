"""How is a confusion matrix drawn?

Only this file imports matplotlib, and only when it draws. It does not use pyplot, which keeps its figures in a global
list, since a sweep may run in any thread. It ignores the user's settings, since a `matplotlibrc` in the working folder
may ask for LaTeX or for missing fonts.
"""

from __future__ import annotations

import importlib.util
import io
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from peftsweep.safe_text.escaping import in_line
from peftsweep.system.atomic_files import replaced

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
LONGEST = 24  # characters of a label beside a row
LONGEST_TITLE = 16  # characters of a label above a map of two by two cells
DARK, LIGHT, MUTED = "#1b2733", "#ffffff", "#9aa5b1"


@dataclass(frozen=True)
class HeatMap:
    """One map: counts [n, n] by true and predicted class, as shares of their row and as text."""

    title: str
    names: tuple[str, ...]
    shares: NDArray[np.float64]
    texts: tuple[tuple[str, ...], ...]


def confusion_png(matrix: NDArray[np.int64], labels: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix: counts in the cells, their share of the true class as colour.

    Args:
        matrix: [C, C], true classes in rows and predicted ones in columns, for one map; or [C, 2, 2], off before on,
            for a small map per label.
        labels: C names.
        path: the file, written aside and renamed.
    """
    maps = heat_maps(matrix, labels)
    with _own_settings(), replaced(path) as file, warnings.catch_warnings():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(facecolor="white")
        FigureCanvasAgg(figure)
        if matrix.ndim == 3:
            _draw_grid(figure, maps)
        else:
            _draw_one(figure, maps[0])
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a label's emoji may be drawn as a box
        # the figure is as large as its maps; `tight` adds room for their labels
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)


# Plain rows -------------------------------------------------------------------------------------------------------


def heat_maps(matrix: NDArray[np.int64], labels: Sequence[str]) -> list[HeatMap]:
    """A matrix [C, C] gives one map. A matrix [C, 2, 2] gives a map for each label, with the label as title."""
    if matrix.ndim == 2:
        return [_heat_map("", [shortened(label, LONGEST) for label in labels], matrix)]
    titles = [shortened(label, LONGEST_TITLE) for label in labels]
    return [_heat_map(title, ("off", "on"), counts) for title, counts in zip(titles, matrix, strict=True)]


def _heat_map(title: str, names: Sequence[str], counts: NDArray[np.int64]) -> HeatMap:
    texts = tuple(tuple(count_text(int(count)) for count in row) for row in counts)
    return HeatMap(title, tuple(names), row_shares(counts), texts)


def row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each count as a share of its row; 0 in an empty row."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(totals, 1), dtype=np.float64)


def count_text(count: int) -> str:
    """A count in at most five characters: 99999, 123k, 4.5M."""
    if count < 100_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.{count < 99_950_000:d}f}M"


def shortened(label: str, longest: int) -> str:
    """The label on one line of at most `longest` characters, with … in the middle: names often differ at their ends."""
    label = in_line(" ".join(label.split()))
    if len(label) <= longest:
        return label
    tail = (longest - 1) // 3
    return f"{label[: longest - 1 - tail].rstrip()}…{label[len(label) - tail :].lstrip()}"


# matplotlib's settings --------------------------------------------------------------------------------------------


@contextmanager
def _own_settings() -> Iterator[None]:
    """matplotlib with its default settings inside the block, whatever the user's files say."""
    try:
        import matplotlib
    except Exception:  # matplotlib reads its settings file on import, and may fail to
        _import_without_settings()
        import matplotlib
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


def _import_without_settings() -> None:
    """Import matplotlib as if there were no settings file and no MPLBACKEND."""

    def opened(file: str, **options: Any) -> TextIO:
        return Path(file).open(**options) if Path(file).is_relative_to(home) else io.StringIO()

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        del sys.modules[name]  # left by the failed import
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None and spec.loader is not None and spec.origin is not None
    home, module = Path(spec.origin).parent, importlib.util.module_from_spec(spec)
    vars(module)["open"] = opened
    backend = os.environ.pop("MPLBACKEND", None)
    sys.modules["matplotlib"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["matplotlib"]
        raise
    finally:
        del vars(module)["open"]
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


# Drawing ----------------------------------------------------------------------------------------------------------


def _draw_one(figure: Figure, heat: HeatMap) -> None:
    """One map of C classes. From about forty on, cells are too small for text and have their colour only."""
    count = len(heat.names)
    cell = min(0.85, max(0.36, 6 / count), 20 / count)  # inches
    side = cell * count
    figure.set_size_inches(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_cells(axes, heat, cell)
    axes.set_frame_on(False)
    axes.tick_params(length=0, colors=DARK)
    size = min(10.0, 55 * cell * 0.5)
    flat = count <= 6 and max(map(len, heat.names)) * size * 0.6 < cell * 72
    axes.set_xticks(range(count), heat.names, fontsize=size, parse_math=False)
    axes.set_yticks(range(count), heat.names, fontsize=size, parse_math=False)
    if not flat:
        for name in axes.get_xticklabels():
            name.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted", fontsize=11, color=DARK, labelpad=8)
    axes.set_ylabel("true", fontsize=11, color=DARK, labelpad=8)
    _draw_key(figure, axes, 1 + 0.2 / side, 0.14 / side)


def _draw_grid(figure: Figure, maps: Sequence[HeatMap]) -> None:
    """A small map for each label, row by row. All are on one pair of axes: each pair takes as long as what is drawn on
    it, and a sweep waits."""
    columns = min(len(maps), max(3, math.ceil(math.sqrt(len(maps) * 1.3))))
    rows = math.ceil(len(maps) / columns)
    cell = 0.56  # inches; other lengths are in cells
    gap, head, near, far = 0.3 / cell, 0.42 / cell, 0.06 / cell, 0.37 / cell
    wide, high = columns * (2 + gap) - gap, rows * (2 + head) - head
    figure.set_size_inches(cell * wide, cell * high)
    axes = figure.add_axes((0, 0, 1, 1))
    middle: dict[str, Any] = {"color": DARK, "ha": "center", "va": "center"}
    for i, heat in enumerate(maps):
        row, column = divmod(i, columns)
        left, top = column * (2 + gap), row * (2 + head)
        _draw_cells(axes, heat, cell, left, top)
        axes.text(left + 0.5, top - 0.5 - 2.5 * near, heat.title, **middle, fontsize=9, parse_math=False)
        for j, name in enumerate(heat.names):
            if i + columns >= len(maps):  # nothing is below
                axes.text(left + j, top + 1.5 + 2 * near, name, **middle, fontsize=8)
            if column == 0:
                axes.text(-0.5 - 2 * near, top + j, name, **middle, fontsize=8, rotation=90)
    axes.text(wide / 2 - 0.5, high - 0.5 + far, "predicted", **middle, fontsize=10)
    axes.text(-0.5 - far, high / 2 - 0.5, "true", **middle, fontsize=10, rotation=90)
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    axes.axis("off")
    _draw_key(figure, axes, 1 + 0.2 / (cell * wide), 0.14 / (cell * wide))


def _draw_cells(axes: Axes, heat: HeatMap, cell: float, left: float = 0.0, top: float = 0.0) -> None:
    """Draw a map's cells, the middle of the first one at (left, top), in cells."""
    from matplotlib.patches import Rectangle

    count = len(heat.names)
    begin, end = np.array((left, top)) - 0.5, np.array((left, top)) + count - 0.5
    extent = (begin[0], end[0], end[1], begin[1])
    axes.imshow(heat.shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest", extent=extent)
    lines: dict[str, Any] = {"colors": "#dde3e9", "linewidth": 0.6}
    axes.vlines(begin[0] + np.arange(1, count), begin[1], end[1], **lines)
    axes.hlines(begin[1] + np.arange(1, count), begin[0], end[0], **lines)
    axes.add_patch(Rectangle(tuple(begin), count, count, fill=False, edgecolor="#b5bfca", linewidth=0.6, clip_on=False))
    longest = max(len(text) for row in heat.texts for text in row)
    size = min(11.0, cell * 72 * 0.82 / (0.64 * max(2, longest)))  # a digit is 0.64 of the font's size wide
    if cell < 0.3:
        return
    for (row, column), share in np.ndenumerate(heat.shares):
        text = heat.texts[row][column]
        colour = LIGHT if share > 0.55 else MUTED if text == "0" else DARK
        axes.text(left + column, top + row, text, ha="center", va="center", fontsize=size, color=colour)


def _draw_key(figure: Figure, axes: Axes, left: float, width: float) -> None:
    """Draw what the colours mean, to the right of everything, at most three inches high."""
    high = figure.get_size_inches()[1]
    height = min(1.0, 3 / high)
    key = figure.colorbar(axes.images[0], cax=figure.add_axes((left, 1 - height, width, height)), ticks=(0, 0.5, 1))
    key.ax.set_yticklabels(("0 %", "50 %", "100 %"), fontsize=8, color=DARK)
    key.ax.tick_params(length=0)
    key.set_label("share of the true class", fontsize=8, color=DARK)
    key.outline.set_visible(False)
