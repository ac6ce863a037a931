"""How many trials and workers can one sweep hold? Workers that replay learning curves, and the rivals' rates.

    python benchmarks/scale.py [--trials 10000] [--workers 16 64 448] [--rival-trials 400] [--curves FILE] [--quick]

The sweep is the real one: study, storage, judge, tracker and the loop in which they talk with workers. Only the workers
are simulated (`replay.py`): each replays a curve of six evaluations. Each side runs in a process of its own, in a new
database: an SQLite file, or PostgreSQL, which is started for the purpose (Debian's package `postgresql`).

Figures go to stdout, a JSON object a line:

- `evaluations_per_second` that the sweep judges while its workers take no time at all, and `ms_per_trial` (with its six
  evaluations, from asking for it to its result in the database) just before the 100th trial, the 1,000th and the last.
  The same by `cpu`, in this process's processor time, holds on a busy machine too.
- `lost` and `double`: trials without a result or without all of their evaluations, and evaluations judged twice, as the
  database has them.
- `seconds` of a sweep whose trials take one second each, in real time, and report once, at their end.
- Other sides have MLflow (a file), pruning, TPE, or the adapters and reports of complete trials, which are left out
  otherwise.
- The rivals ask, report six times and tell in 16 processes: Optuna's own storage, and its gRPC proxy before it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from replay import EVALUATIONS, Replayed, dataset, modelled, recorded, study

from peftsweep.progress import Silent
from peftsweep.storage import Studies
from peftsweep.study import artifacts
from peftsweep.sweep.open_study import open_study
from peftsweep.sweep.run_study import train
from peftsweep.sweep.study_judge import StudyJudge
from peftsweep.sweep.trial_supply import TrialSupply
from peftsweep.system.signals import stopped_by_signals
from peftsweep.tracking import MlflowRuns, Tracker

ROOT = Path(__file__).resolve().parents[1]
AT = 100  # trial at which a cost is first measured
FEWEST = 48  # trials over which it is measured, at least
PROCESSES = 16  # of a rival
SPACE = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "log2_rank": IntDistribution(2, 6),
    "dropout": FloatDistribution(0.0, 0.3),
    "scheduler": CategoricalDistribution(("linear", "cosine", "constant_with_warmup")),
}


class Untold(Tracker):
    """Is told everything and writes nothing."""

    def _put(self, *args: Any, **kwargs: Any) -> None:
        pass


class Timed(Replayed):
    """Also notes the processor time at which each trial ended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cpu: list[float] = []

    def _end(self, *args: Any, **kwargs: Any) -> Any:
        self.cpu.append(time.process_time())
        return super()._end(*args, **kwargs)


# The sweep ----------------------------------------------------------------------------------------------------------


def sweep(url: str, folder: Path, side: dict[str, Any]) -> dict[str, Any]:
    """Run one side in this process; returns its figures."""
    os.chdir(folder)
    curves = recorded(Path(side["curves"])) if side.get("curves") else ()
    config, data = study("replayed", side.get("sampler", "random"), side.get("halving", False)), dataset()
    evaluations = side.get("evaluations", EVALUATIONS)
    pool, studies = Timed(side["workers"], side.get("seconds", 0.0), curves, evaluations), Studies(url)
    if not side.get("artifacts"):
        artifacts.write = lambda *args, **options: None
    with stopped_by_signals() as stop, studies.lease("replayed"):
        (opened,) = studies.hold(open_study(studies, config, data))
        supply = TrialSupply(config, opened, studies, side["trials"])
        sink = MlflowRuns(f"sqlite:///{folder}/mlflow.db")
        tracker = Tracker(sink, note=report_problem) if side.get("mlflow") else Untold(sink, note=report_problem)
        judge = StudyJudge(supply, data, tracker, Silent(), stop)
        began, cpu = time.monotonic(), time.process_time()
        train([judge], lambda: pool, 1, "", Silent(), checkpoint_every=60)
        whole = time.monotonic() - began
    found: dict[str, Any] = {"seconds": round(pool.ended[-1] - began, 2), "with_the_end": round(whole, 2)}
    found["evaluations_per_second"] = round(pool.judged / (pool.ended[-1] - began), 1)
    found["evaluations_per_cpu_second"] = round(pool.judged / (pool.cpu[-1] - cpu), 1)
    for name, moments in (("ms_per_trial", pool.ended), ("cpu_ms_per_trial", pool.cpu)):
        places = [AT, 10 * AT, len(moments)] if len(moments) > 10 * AT else [len(moments)]
        counts = {place: rounds(place, side["workers"]) for place in places}
        found[name] = {str(place): cost(moments[:place], count) for place, count in counts.items() if place > count}
    if side.get("mlflow"):
        found["mlflow_lost"] = tracker.lost
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found | checked(url, pool.judged, evaluations) | {"peak_megabytes": round(peak)}


def report_problem(text: str) -> None:
    print(text, file=sys.stderr)


def rounds(place: int, workers: int) -> int:
    """Over how many trials before a place the cost is measured: a tenth of them, in which rare work such as garbage
    collection has its share. All workers answer together, so these are whole rounds."""
    return workers * -(-max(FEWEST, place // 10) // workers)


def cost(moments: Sequence[float], count: int) -> float:
    """Milliseconds per trial over the last `count`."""
    return round(1000 * (moments[-1] - moments[-1 - count]) / count, 3)


def checked(url: str, judged: int, evaluations: int = EVALUATIONS) -> dict[str, int]:
    """What the database says about the trials: how many, how many have no result or not all evaluations, and how many
    evaluations were judged besides those that are there."""
    with Studies(url).storage.engine.connect() as connection:

        def count(query: str) -> int:
            return int(connection.scalar(sqlalchemy.text(query)))

        trials, numbers = count("SELECT count(*) FROM trials"), count("SELECT count(DISTINCT number) FROM trials")
        ended = count("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED') AND number >= 0")
        points = count("SELECT count(*) FROM trial_intermediate_values")
        short = count(
            "SELECT count(*) FROM trials WHERE state = 'COMPLETE' AND (SELECT count(*) FROM trial_intermediate_values "
            f"AS v WHERE v.trial_id = trials.trial_id) != {evaluations}"
        )
    return {"trials": trials, "lost": trials - ended + short, "double": trials - numbers + judged - points}


# Rivals -------------------------------------------------------------------------------------------------------------


def rival_storage(url: str, proxy: int | None) -> optuna.storages.BaseStorage:
    if proxy is not None:
        return optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=proxy)
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in url else {})


def rival_process(url: str, proxy: int | None, trials: int, begin: Any, ready: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = rival_storage(url, proxy)
    mine = optuna.load_study(study_name="rival", storage=storage, sampler=optuna.samplers.RandomSampler())
    ready.release()
    begin.wait()
    for _ in range(trials):
        trial = mine.ask(SPACE)
        for index, scores in enumerate(modelled(trial.number), 1):
            trial.report(scores["macro_f1"], index)
        mine.tell(trial, scores["macro_f1"])


def rival(url: str, trials: int, *, proxied: bool) -> dict[str, Any]:
    """Sixteen processes that share the trials of a study, as with `--n-jobs` on many machines."""
    url = url.replace("postgresql:", "postgresql+psycopg:")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(study_name="rival", storage=optuna.storages.RDBStorage(url), direction="maximize")
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as leave:
        proxy = leave.enter_context(served_proxy(url)) if proxied else None
        begin, ready, each = spawn.Event(), spawn.Semaphore(0), -(-trials // PROCESSES)
        workers = [spawn.Process(target=rival_process, args=(url, proxy, each, begin, ready)) for _ in range(PROCESSES)]
        for worker in workers:
            worker.start()
        for _ in workers:
            ready.acquire()
        began = time.monotonic()
        begin.set()
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - began
    failed = sum(worker.exitcode != 0 for worker in workers)
    whole = {
        "trials": each * PROCESSES,
        "processes": PROCESSES,
        "failed_processes": failed,
        "seconds": round(seconds, 2),
    }
    rate = EVALUATIONS * each * (PROCESSES - failed) / seconds
    return whole | {"evaluations_per_second": round(rate, 1), "ms_per_trial": round(1000 * EVALUATIONS / rate, 2)}


PROXY = """
import sys, optuna
from optuna.storages import RDBStorage, run_grpc_proxy_server
run_grpc_proxy_server(RDBStorage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""


@contextlib.contextmanager
def served_proxy(url: str) -> Iterator[int]:
    """Optuna's gRPC proxy before a storage; yields its port."""
    from tests.programs import free_port

    port = free_port()
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROXY, url, str(port)]) as server:
        try:
            optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(timeout=60)
            yield port
        finally:
            server.kill()


# Sides --------------------------------------------------------------------------------------------------------------


def sides(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is measured, each a mapping of arguments of `sweep`, or of a rival."""
    common = {"curves": given.curves, "trials": given.trials}
    for kind in ("sqlite", "postgresql"):
        for workers in given.workers:
            yield {"side": "sweep", "storage": kind, "workers": workers, **common}
    first = {"storage": "sqlite", "workers": given.workers[0], **common}
    yield {"side": "pruning", **first, "halving": True}
    yield {"side": "MLflow", **first, "mlflow": True}
    yield {"side": "TPE", **first, "sampler": "tpe", "trials": min(given.trials, 1000)}
    yield {"side": "adapters and reports", **first, "artifacts": True, "trials": min(given.trials, 300)}
    for kind in ("postgresql", "sqlite"):
        yield {"side": "rival: RDBStorage", "storage": kind, "trials": given.rival_trials, "proxied": False}
    yield {"side": "rival: gRPC proxy", "storage": "postgresql", "trials": given.rival_trials, "proxied": True}
    if given.seconds:
        yield {
            "side": "real time",
            "storage": "postgresql",
            "workers": 16,
            "seconds": given.seconds,
            "evaluations": 1,
            **common,
        }


def measured(side: dict[str, Any], server: Any) -> dict[str, Any]:
    """Run a side in a process of its own, in a new database."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/studies.db"
        if side["storage"] == "postgresql":
            url = server.database()
        if side["side"].startswith("rival"):
            try:
                return side | rival(url, side["trials"], proxied=side["proxied"])
            except ImportError as error:  # the proxy needs grpcio
                return side | {"error": str(error)}
        if side["storage"] == "postgresql":
            url = f"{url}?artifacts={folder}/artifacts"
        words = [
            sys.executable,
            "-W",
            "ignore",
            __file__,
            "--one",
            json.dumps({"url": url, "folder": name, "side": side}),
        ]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return side | figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64, 448])
    parser.add_argument("--rival-trials", type=int, default=400, help="a rival's rate is that of so many trials")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a trial in real time; 0 leaves this side out")
    parser.add_argument("--curves", help="a file of recorded learning curves; by default, curves are modelled")
    parser.add_argument("--only", nargs="+", help="only sides whose names begin so")
    parser.add_argument("--quick", action="store_true", help="few trials, to see that it works")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one = json.loads(given.one)
        print(json.dumps(sweep(one["url"], Path(one["folder"]), one["side"])))
        return
    if given.quick:
        given.trials, given.workers, given.rival_trials, given.seconds = 130, [2, 8], 16, 0.05
    sys.path.insert(0, str(ROOT))
    from psycopg import sql

    from tests.postgresql import PASSWORD, USER, served

    print(json.dumps({"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}), flush=True)
    with served() as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD)))
        for side in sides(given):
            if not given.only or side["side"].startswith(tuple(given.only)):
                print(json.dumps({"load": round(os.getloadavg()[0], 1), **measured(side, server)}), flush=True)


if __name__ == "__main__":
    main()
