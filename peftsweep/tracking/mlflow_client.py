"""Are MLflow's answers what was asked for? A client that checks them.

A gateway, or another program at the address, may answer with 200 and `{}`. MLflow's client turns that into a run with
an empty id. A stored id is used from then on, so ids are checked first.

Only this file imports MLflow at module level, which takes seconds. It is imported when MLflow is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from peftsweep.tracking.sink import BadAnswerError, is_valid_id

PAGE = 1000  # runs per request, MLflow's own limit


@contextmanager
def _checked() -> Iterator[None]:
    """Turn what MLflow's client raises for an answer that it cannot read into `BadAnswerError`."""
    try:
        yield
    except (BadAnswerError, OSError):
        raise
    except MlflowException as error:
        if "not in a valid JSON format" in error.message:
            raise BadAnswerError("its answer is not JSON") from error
        raise
    except Exception as error:
        if type(error).__name__ == "ParseError":  # of protobuf, which comes with MLflow
            raise BadAnswerError("its answer has other types than MLflow's") from error
        if isinstance(error, TypeError | ValueError | LookupError | AttributeError):
            raise BadAnswerError("its answer is not one that MLflow gives") from error
        raise


class Client(MlflowClient):
    """Raises `BadAnswerError` if an answer does not fit the request."""

    search_runs = _checked()(MlflowClient.search_runs)
    get_metric_history = _checked()(MlflowClient.get_metric_history)
    list_artifacts = _checked()(MlflowClient.list_artifacts)
    restore_experiment = _checked()(MlflowClient.restore_experiment)
    update_run = _checked()(MlflowClient.update_run)
    delete_run = _checked()(MlflowClient.delete_run)
    delete_tag = _checked()(MlflowClient.delete_tag)
    set_tag = _checked()(MlflowClient.set_tag)
    set_terminated = _checked()(MlflowClient.set_terminated)
    log_batch = _checked()(MlflowClient.log_batch)
    log_artifact = _checked()(MlflowClient.log_artifact)
    log_artifacts = _checked()(MlflowClient.log_artifacts)

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        with _checked():
            found = super().get_experiment_by_name(name)
        if found is not None and (found.name != name or not is_valid_id(found.experiment_id)):
            raise BadAnswerError("it answered with another experiment")
        return found

    def create_experiment(self, name: str, *args: Any, **kwargs: Any) -> str:
        with _checked():
            made = super().create_experiment(name, *args, **kwargs)
        if not is_valid_id(made):
            raise BadAnswerError("its answer is not the id of the new experiment")
        return made

    def create_run(self, experiment_id: str, *args: Any, **kwargs: Any) -> Run:
        with _checked():
            made = super().create_run(experiment_id, *args, **kwargs)
        if not is_valid_id(made.info.run_id) or made.info.experiment_id != experiment_id:
            raise BadAnswerError("its answer is not the new run")
        return made

    def get_run(self, run_id: str) -> Run:
        with _checked():
            found = super().get_run(run_id)
        if found.info.run_id != run_id:
            raise BadAnswerError("it answered with another run")
        return found

    def tagged(self, experiment_id: str, tag: str, value: str) -> list[Run]:
        """All runs of an experiment with this tag. The tag is checked again here: duplicates are deleted, and a server
        might ignore the filter."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=PAGE, page_token=token)
            if any(not is_valid_id(run.info.run_id) for run in page):
                raise BadAnswerError("its answer has runs without an id")
            found += [run for run in page if run.data.tags.get(tag) == value]
            token = page.token
            if not token:
                return found
