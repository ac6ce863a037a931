"""rich's console for text from data: nothing in it is markup, and nothing in it is obeyed by the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import StyleType
from rich.table import Table

from peftsweep.escaping import harmless, in_line
from peftsweep.quoting import LINE, shortened


class Screen(Console):
    """Prints texts, tables and bars. What rich itself has to say to the terminal (colours, where the cursor goes) comes
    through; what looks like it in a text is written out."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(file=stream, highlight=False, markup=False, emoji=False)

    def print_line(self, text: str) -> None:
        """Print a line, which is never folded, so that it can be copied."""
        self.print(fit(text), soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))


class Grid(Table):
    """A table of texts from data, each in lines of its own: they are measured as they will be written out."""

    def add_texts(self, *texts: str, style: StyleType | None = None) -> None:
        self.add_row(*map(fit, texts), style=style)


def fit(text: str) -> str:
    """The text for a line: without secrets, of a length that somebody reads, and with nothing that is obeyed."""
    return in_line(shortened(text, LINE))
