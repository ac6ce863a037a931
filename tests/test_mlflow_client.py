"""What is reported if a server answers with status 200, but not as MLflow would?"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from peftsweep.errors import TrackingError
from peftsweep.tracking import Tracker
from peftsweep.tracking.mlflow_runs import MlflowRuns
from peftsweep.tracking.sink import KEY, Outcome, StudySnapshot
from peftsweep.trial_state import TrialState

Answers = Callable[[str], Any]  # from the path of a request to the value to answer with
STUDY = StudySnapshot("small", "demo", {"method": "lora"}, {KEY: "k"})
RUN = {"info": {"run_id": "a" * 32, "experiment_id": "1", "artifact_uri": "file:///nowhere"}, "data": {}}


def same_id_for_all(path: str) -> Any:
    if "experiments/get-by-name" in path:
        return {"experiment": {"experiment_id": "1", "name": STUDY.data, "lifecycle_stage": "active"}}
    return {"run": RUN} if "runs/create" in path or "runs/get" in path else {}


def numbers_as_ids(path: str) -> Any:
    return {"experiment_id": 7, "experiment": {"experiment_id": 7}, "run": {"info": {"run_id": 12}}}


def only_runs_broken(value: Any) -> Answers:
    return lambda path: value if "/runs/" in path else same_id_for_all(path)


@contextmanager
def answering(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.dumps(answers(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "answers",
    [
        same_id_for_all,
        numbers_as_ids,
        lambda path: {},
        lambda path: [],
        lambda path: None,
        *map(only_runs_broken, ([], None, {"run": []}, {"runs": [5]}, {"run": {"info": {"run_id": 5}}})),
    ],
)
def test_run_and_sync_report_an_answer_that_cannot_be_used(tmp_path: Path, answers: Answers) -> None:
    page = tmp_path / "comparison.html"
    page.write_text("<p>")
    notes: list[str] = []
    with answering(answers) as uri:
        run = Tracker(MlflowRuns(uri), note=notes.append)
        run.open_study(STUDY)
        run.start_trial(0, params={"rank": 2}, tags={})
        run.log(0, {"macro_f1": 0.5}, 1)
        run.store_page(STUDY.data, page)
        run.end_trial(0, Outcome(TrialState.COMPLETE))
        run.close()
        sync = Tracker(MlflowRuns(uri), note=notes.append)
        try:
            assert not sync.has_all(STUDY, Outcome(TrialState.COMPLETE), {})
        except TrackingError as error:
            notes.append(str(error))
    problems = [note for note in notes if "not written" not in note]
    expected = f"MLflow at {uri} gives no answer that can be used (it"
    assert problems and all(note.startswith(expected) for note in problems), problems
    assert not [note for note in notes if "expected" in note or "object" in note or "unpack" in note]
