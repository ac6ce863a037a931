"""How are parts of a text hidden, given as (start, end) pairs?"""

from __future__ import annotations

from collections.abc import Iterable

HIDDEN = "***"
Span = tuple[int, int]


def hide(text: str, spans: Iterable[Span]) -> str:
    """The text with `***` for each span, and a single one for spans that touch or overlap."""
    parts, done, last = list[str](), 0, -1
    for start, end in sorted(spans):
        if start > last:
            if start >= end:
                continue
            parts += [text[done:start], HIDDEN]
            last = end
        last = done = max(last, end)
    return "".join([*parts, text[done:]])
