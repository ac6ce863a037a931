"""The run that holds the pages that compare an experiment's studies, where the UI shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

    from peftsweep.tracking.mlflow_client import Client

COMPARISON = "comparison.html"
SELECTION = "selection.html"  # of some of the studies: the last that was asked for
KIND = "peftsweep.kind"
TOLD = f"All studies side by side: open **{COMPARISON}** under *Artifacts*."


def only(client: Client, experiment_id: str, at: int) -> Run:
    """The experiment's comparison run. It is made if it is not there; of two, which two sweeps made at one
    moment, the older stays.

    Args:
        at: when it begins, if it is new, in milliseconds since 1970.
    """
    if not runs(client, experiment_id):
        client.create_run(experiment_id, at, {KIND: "comparison", "mlflow.note.content": TOLD}, "comparison")
    first, *others = runs(client, experiment_id)
    for other in others:
        client.delete_run(other.info.run_id)
    return first


def runs(client: Client, experiment_id: str) -> list[Run]:
    """The comparison runs, the oldest first."""
    found = client.tagged(experiment_id, KIND, "comparison")
    return sorted(found, key=lambda run: (run.info.start_time or 0, run.info.run_id))


def drawn(name: str) -> str:
    """The tag that says of which moment the page of this name is, in milliseconds since 1970."""
    return f"peftsweep.drawn.{name}"


def is_level(client: Client, run: Run, name: str, at: int) -> bool:
    """Whether the run holds a page of this name that is no older than one of this moment."""
    files = client.list_artifacts(run.info.run_id)
    told = run.data.tags.get(drawn(name), "")
    return any(file.path == name for file in files) and told.isdecimal() and int(told) >= at
