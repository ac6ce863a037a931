"""The run that holds the comparison of an experiment's studies, where the UI shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

COMPARISON = "comparison.html"
KIND = "peftsweep.kind"
TOLD = f"All studies of this data side by side: open **{COMPARISON}** under *Artifacts*."


def keep(client: MlflowClient, experiment_id: str, page: Path, at: int) -> None:
    """Put the page in the experiment's comparison run, in place of an earlier one; the run is made if it is not there.

    Args:
        at: when it was drawn, in milliseconds since 1970.
    """
    found = client.search_runs([experiment_id], f"tags.`{KIND}` = 'comparison'", max_results=1)
    if found:
        run_id = found[0].info.run_id
    else:
        tags = {KIND: "comparison", "mlflow.note.content": TOLD}
        run_id = client.create_run(experiment_id, at, tags, "comparison").info.run_id
    client.log_artifact(run_id, str(page))
    client.set_terminated(run_id, "FINISHED", at)
