"""Where do events wait until the worker sends them?"""

from __future__ import annotations

from peftsweep.engine.messages import Event, Note


class Outbox:
    """Events that have not been sent yet."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def post(self, event: Event) -> None:
        self.events.append(event)

    def note(self, text: str) -> None:
        self.post(Note(text))

    def drain(self) -> list[Event]:
        """Take all events out."""
        events, self.events = self.events, []
        return events
