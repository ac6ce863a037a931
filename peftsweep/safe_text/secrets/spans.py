"""Parts of a text that are hidden, as pairs of where they begin and end."""

from __future__ import annotations

from collections.abc import Iterable

HIDDEN = "***"
Span = tuple[int, int]


def hidden(text: str, spans: Iterable[Span]) -> str:
    """The text with `***` for each of the spans, and one for those that touch."""
    parts, done, last = list[str](), 0, -1
    for start, end in sorted(spans):
        if start > last:
            if start >= end:
                continue
            parts += [text[done:start], HIDDEN]
            last = end
        last = done = max(last, end)
    return "".join([*parts, text[done:]])
