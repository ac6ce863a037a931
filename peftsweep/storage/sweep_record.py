"""What does a sweep record of itself while it runs? Its process, its workers, a heartbeat; and who asks it to end."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from peftsweep.config import MAX_NUMBER
from peftsweep.storage.record_parts import Part
from peftsweep.storage.value_limits import Count, Moment, Text
from peftsweep.sweep_state import SweepState


def _recordable(state: SweepState) -> SweepState:
    if state == SweepState.DIED:
        raise ValueError("no sweep records that it died")
    return state


class WorkerRecord(Part):
    """A worker of a running sweep."""

    number: Count
    node: Text | None = None
    """Name of its machine; None: it trains in the sweep's own process."""
    device: Text
    slots: Count
    rate: Annotated[float, Field(ge=0, le=MAX_NUMBER, allow_inf_nan=False)]
    """Samples per second."""
    since: Moment
    """When it began to train this study."""
    trials: list[Count]
    """Numbers of the trials that it trains."""


class SweepRecord(Part):
    """The sweep that runs a study, or the last one that did."""

    token: Text
    """Tells this sweep from earlier and later ones of the same study."""
    state: Annotated[SweepState, Field(strict=False), AfterValidator(_recordable)]
    host: Text
    pid: Count
    command: Text = ""
    """What a person gives to resume it, without passwords; empty if a program ran it."""
    began: Moment
    heartbeat: Moment
    """When the sweep last wrote this."""
    workers: list[WorkerRecord] = Field(default_factory=list)
    reason: Text = ""
    """Who or what stopped it."""

    @property
    def process(self) -> str:
        return f"process {self.pid} on {self.host}"


class StopRequest(Part):
    """A request to a running sweep to end, or to end one of its trials."""

    token: Text
    """The sweep's. Another sweep ignores the request."""
    trial: Count | None = None
    by: Text
    """Who asks."""
