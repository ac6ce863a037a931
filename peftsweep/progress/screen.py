"""How does rich print text from data? It is not read as markup, and the terminal obeys no control code in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Table

from peftsweep.safe_text.escaping import harmless, in_line
from peftsweep.safe_text.quoting import LINE, shortened

FOLDED = 12  # columns of a narrow screen that a folded text gets at least, as `Grid.least_width` counts


class Screen(Console):
    """A rich console. rich's own control codes (colours, cursor) reach the terminal; those in texts are escaped."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=stream, highlight=False, markup=False, emoji=False)

    def print_line(self, text: str) -> None:
        """Print a line without folding it, so that it can be copied."""
        self.print(fit(text), soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


class Grid(Table):
    """A table of texts from data. Column widths are measured after escaping."""

    def add_texts(self, *texts: str, style: StyleType | None = None) -> None:
        self.add_row(*map(fit, texts), style=style)

    def least_width(self) -> int:
        """Width below which rich would cut off texts. A column whose texts may be folded counts as at most `FOLDED`."""
        padding = len(self.columns) * (self.padding[1] + self.padding[3])
        widths = [
            (max(map(cell_len, [str(each.header), *map(str, each.cells)])), each.no_wrap) for each in self.columns
        ]
        return padding + sum(width if whole else min(width, FOLDED) for width, whole in widths)


def fit(text: str) -> str:
    """The text for one line: secrets are masked, its length is bounded, control codes are escaped."""
    return in_line(shortened(text, LINE))
