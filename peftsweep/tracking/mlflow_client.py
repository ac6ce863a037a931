"""MLflow's client, whose answers are looked at before they are believed.

A gateway, or whatever else is at the address, may answer with 200 and `{}`, and MLflow's client makes a run of that
whose id is empty. An id that is kept is asked for ever after, so none is taken that could not be one.

The only file that imports MLflow at once: that takes seconds, and is done when MLflow is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from peftsweep.tracking.sink import NonsenseError, is_id

PAGE = 1000  # runs at a time, MLflow's own limit


class Client(MlflowClient):
    """Raises `NonsenseError` where an answer cannot be that of what was asked for."""

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        with _believed():
            found = super().get_experiment_by_name(name)
        if found is not None and (found.name != name or not is_id(found.experiment_id)):
            raise NonsenseError("its answer is not the experiment that it was asked for")
        return found

    def create_experiment(self, name: str, *args: Any, **kwargs: Any) -> str:
        with _believed():
            made = super().create_experiment(name, *args, **kwargs)
        if not is_id(made):
            raise NonsenseError("its answer is not the id of the experiment that it was to make")
        return made

    def create_run(self, experiment_id: str, *args: Any, **kwargs: Any) -> Run:
        with _believed():
            made = super().create_run(experiment_id, *args, **kwargs)
        if not is_id(made.info.run_id) or made.info.experiment_id != experiment_id:
            raise NonsenseError("its answer is not the run that it was to make")
        return made

    def get_run(self, run_id: str) -> Run:
        with _believed():
            found = super().get_run(run_id)
        if found.info.run_id != run_id:
            raise NonsenseError("its answer is not the run that it was asked for")
        return found

    def tagged(self, experiment_id: str, tag: str, value: str) -> list[Run]:
        """All runs of an experiment with this tag. Whether they have it is looked at: of runs that are found twice one
        is deleted, and a server might not have read what it was asked."""
        found: list[Run] = []
        token: str | None = None
        while True:
            with _believed():
                asked = f"tags.`{tag}` = '{value}'"
                page = self.search_runs([experiment_id], asked, max_results=PAGE, page_token=token)
            if any(not is_id(run.info.run_id) for run in page):
                raise NonsenseError("its answer has runs without an id")
            found += [run for run in page if run.data.tags.get(tag) == value]
            token = page.token
            if not token:
                return found


@contextmanager
def _believed() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "ParseError":  # of protobuf, which MLflow brings
            raise NonsenseError(f"its answer has other types than MLflow's: {error}") from error
        if isinstance(error, MlflowException) and "not in a valid JSON format" in error.message:
            raise NonsenseError("its answer is no JSON") from error
        raise
