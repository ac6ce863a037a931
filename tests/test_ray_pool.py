"""What does a sweep say if it cannot have workers of Ray, and what do they get from it?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from ray.exceptions import RayTaskError

from peftsweep import __version__
from peftsweep.config import SPECS, MethodSpec, TrainConfig, load
from peftsweep.config.hyperparameters.lora import LoraHyperparameters
from peftsweep.data import Dataset
from peftsweep.engine import StartTrials, Trial
from peftsweep.errors import UsageError, WorkerError
from peftsweep.methods import METHODS, register
from peftsweep.methods.lora import Lora
from peftsweep.study.results import has_ended
from peftsweep.system.addresses import is_ray_address
from peftsweep.system.ray_errors import last_words, why_broken, why_lost
from peftsweep.system.worker_resources import Resources, allowed_threads
from peftsweep.workers import ray_broker, ray_pool
from peftsweep.workers.checkpoint_folders import DAYS, CheckpointFolders, Landmark, remove_forgotten
from peftsweep.workers.ray_pool import RayPool, environment, with_method
from peftsweep.workers.worker import WorkerSpec
from tests.programs import free_port
from tests.studies import home


def pool(**options: Any) -> RayPool:
    return RayPool(**{"workers": 2, "address": None, "timeout": 60.0, "note": print} | options)


def test_a_cluster_that_does_not_answer_is_named_at_once() -> None:
    address, began = f"127.0.0.1:{free_port()}", time.monotonic()
    with pytest.raises(WorkerError, match=rf"^the Ray cluster at '{address}' cannot be used: .*Connection refused$"):
        pool(address=address)
    assert time.monotonic() < began + 60


def test_the_cluster_of_the_environment_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{free_port()}")
    with pytest.raises(WorkerError, match=address):
        pool(address="auto")


@pytest.mark.parametrize("auto", [False, True])
def test_a_cluster_that_does_not_answer_is_named_before_libraries_load(tmp_path: Path, auto: bool) -> None:
    address = f"ray://127.0.0.1:{free_port()}"
    words = [sys.executable, "-X", "importtime", "-m", "peftsweep", "run", "--study", "demo", "--ray-address"]
    environment = os.environ | {"RAY_ADDRESS": address} if auto else None
    words.append("auto" if auto else address)
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert told.returncode == 1 and address in told.stderr and not re.search(r"\| +torch\n", told.stderr)


def test_a_study_that_is_done_needs_no_cluster_and_one_with_trials_left_does(tmp_path: Path) -> None:
    here, address = home(tmp_path / "home"), f"127.0.0.1:{free_port()}"
    words = ["run", "--study", str(here.study()), "--ray-address", address, "--trials"]
    here.run(here.study(), trials=1)
    done, more = here.call(*words, "1"), here.call(*words, "2")
    assert done.returncode == 0 and "1 complete" in done.stderr
    assert more.returncode == 1 and address in more.stderr
    assert [has_ended(here.storage, load(here.study()), trials) for trials in (1, 2, None)] == [True, False, False]


@pytest.mark.parametrize(
    "address", ["auto", "10.0.0.1:6379", "ray-head_1.example:6379", "ray://localhost:10001", "[::1]:6379"]
)
def test_addresses_that_ray_understands(address: str) -> None:
    assert is_ray_address(address)


@pytest.mark.parametrize(
    "address", ["", "nonsense", "ray://head", "10.0.0.1", "head:0", "head:65536", "http://head:1", "head:1\n", "é:1", 1]
)
def test_other_addresses_are_refused(address: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^ray_address: expected auto, HOST:PORT or ray://HOST:PORT, got "):
        home(tmp_path).run("small", ray_address=address)


@pytest.fixture
def broken_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker imports as Ray."""
    (tmp_path / "ray.py").write_text('raise OSError("librdkafka.so.1: cannot open shared object file")')
    monkeypatch.syspath_prepend(tmp_path)


def test_a_ray_that_cannot_be_imported_is_named_with_the_reason(broken_ray: None) -> None:
    with pytest.raises(WorkerError, match=r"^Ray cannot be used: OSError: librdkafka\.so\.1: cannot open"):
        pool()


def test_a_missing_ray_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"^workers: .* needs Ray: pip install 'peftsweep\[ray\]'$"):
        pool()


def test_the_broker_gets_no_password_but_what_workers_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2-hunter2")
    given = {
        "HF_TOKEN": "hf_abcdefghijklmnopqrst",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "PATH": "/usr/bin",
        "PGHOST": "db",
        "PGPASSWORD": "hunter2-hunter2",
        "OTHER": "--password hunter2-hunter2",
        "PEFTSWEEP_STORAGE": "sqlite:///studies.db",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "DATABASE": "mysql://me:pa55word@db/x",
        "API_KEY": "abc",
        "RAY_ADDRESS": "10.0.0.1:6379",
    }
    added = {"PYTHONPATH", "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    added |= {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    assert environment(given, None).keys() - added == {"HF_TOKEN", "CUDA_VISIBLE_DEVICES", "PATH"}
    assert environment(given, "auto")["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_proxies_that_workers_do_not_get_are_named(broken_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2-hunter2@proxy:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    lines: list[str] = []
    with pytest.raises(WorkerError):
        pool(note=lines.append, workers=1)
    assert lines[0].startswith("workers do not get https_proxy, because it contains a password; ")
    assert lines[1] == "workers: starting Ray on this machine" and "HTTP_PROXY" not in " ".join(lines)


def test_a_local_cluster_obeys_ray_s_settings_but_nothing_that_is_said_of_another_cluster() -> None:
    both = {"RAY_worker_register_timeout_seconds": "9"}
    token = {"RAY_AUTH_TOKEN": "t0k3n-of-a-cluster", "RAY_AUTH_MODE": "disabled"}
    others = token | {"RAY_AUTH_TOKEN_PATH": "/home/u/token"}
    others |= {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_OVERRIDE_RESOURCES": "{}"}
    others |= {"RAY_RUNTIME_ENV_HOOK": "a.hook", "RAY_USE_TLS": "1", "RAY_TLS_SERVER_KEY": "/etc/key.pem"}
    given = both | others | {"RAY_REDIS_PASSWORD": "hunter2-hunter2"}
    alone = [environment(given, None) for _ in range(2)]
    assert alone[0].keys() & given.keys() == both.keys() | token.keys()
    assert len({"t0k3n-of-a-cluster", *(each["RAY_AUTH_TOKEN"] for each in alone)}) == 3  # a fresh one each time
    assert alone[0]["RAY_AUTH_MODE"] == "token"
    assert environment(given, "10.0.0.1:6379").keys() & given.keys() == both.keys() | others.keys()


@pytest.mark.parametrize(
    ("nodes", "workers", "each"),
    [
        ([{"CPU": 8}], 2, [0, 4, 4]),
        ([{"CPU": 8}], 3, [0, 2, 2]),
        ([{"CPU": 2}], 5, [0, 1, 1]),
        ([{"CPU": 16}, {"CPU": 16}, {"CPU": 16}], 3, [0, 16, 16]),
        ([{"CPU": 16}, {"CPU": 4}], 4, [0, 4, 4]),
        ([{}, {"CPU": 32, "GPU": 4}], 4, [1, 1, 8]),
        ([{"CPU": 2}, {"CPU": 8, "GPU": 1}, {"CPU": 6, "GPU": 2}], 3, [1, 1, 3]),
    ],
)
def test_workers_share_what_the_nodes_have(nodes: list[dict[str, float]], workers: int, each: list[int]) -> None:
    found = Resources.of(nodes, workers)
    assert [found.gpus, found.cpus, found.threads] == each


@pytest.mark.parametrize(("said", "threads"), [("2", 2), ("2,1", 2), ("16", 4), ("", 4), ("many", 4), ("0", 4)])
def test_workers_have_no_more_threads_than_the_user_allows(said: str, threads: int) -> None:
    for node in ({"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}):
        assert Resources.of([node], 1, allowed_threads({"OMP_NUM_THREADS": said})).threads == threads


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("because its node has died.", "machine is gone"),
        ("because its worker process has died.", "its process died"),
        (
            "Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2.\nEnd of file. "
            "There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer",
            "its process died: connection error code 2. End of file",
        ),
        (
            "Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2.\nEnd of file. "
            "Some common causes include: (1) the process was killed by the OOM killer",
            "its process died: connection error code 2. End of file",
        ),
    ],
)
def test_a_lost_worker_is_explained_by_what_ray_knows(detail: str, said: str) -> None:
    class ActorDiedError(Exception):
        """Like Ray's."""

    told = why_lost(ActorDiedError(f"The actor died unexpectedly.\n\tactor_id: 7\nThe actor is dead {detail}"))
    assert told.endswith(said)


GCS = "rpc_client.h:204: Failed to connect to GCS within 5 seconds. GCS may have been killed. See its log."
TRACEBACK = 'Traceback (most recent call last):\n  File "ray.py", line 1, in <module>\nImportError: no ray\n'


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (f"chatter\n[2026-11-30 20:56:38,930 E 2778 2810] {GCS}\n", "Failed to connect to GCS within 5 seconds"),
        (f"[2026-11-30 20:56:38,930 C 2778 2810] {GCS}\n*** StackTrace\n/lib/libc.so.6\n", "Failed to connect"),
        (f"[2026-11-30 20:56:38,930 W 2778 2810] {GCS}\n{TRACEBACK}", "ImportError: no ray"),
        ("[2026-11-30 20:56:38,930 I 2778 2810] (core) core_worker.cc:1: all is well\nchatter", ""),
    ],
)
def test_the_last_error_tells_why_ray_is_gone(said: str, why: str) -> None:
    assert last_words(said).startswith(why) and bool(last_words(said)) == bool(why)


def test_the_error_behind_an_error_of_ray_is_told() -> None:
    error = ConnectionError("Failed to connect")
    error.__cause__ = RuntimeError(f"No answer. {TRACEBACK}")
    assert why_broken(error) == "Failed to connect: ImportError: no ray"


@pytest.mark.parametrize(("timeout", "loading"), [(60.0, ray_pool.LOADING), (7200.0, 7200.0)])
def test_a_worker_is_given_longer_while_it_loads_a_base_and_builds_a_pack(timeout: float, loading: float) -> None:
    found = ray_pool.limits(timeout)
    assert found["load"] == found["build"] == loading and found["advance"] == found["close"] == timeout


def test_an_error_of_a_worker_is_told_without_ray_s_traceback() -> None:
    cause = OSError("libcudnn.so.9: cannot open shared object file\nmore")
    error = RayTaskError("hello", f'Traceback (most recent call last):\n  File "<stdin>"\nOSError: {cause}', cause)
    assert why_lost(error.as_instanceof_cause()) == "OSError: libcudnn.so.9: cannot open shared object file"


def test_a_node_whose_libraries_do_not_load_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(ray_broker, "import_module", broken)
    kind, why = ray_broker.SweepWorker().hello(ray_broker.SweepWorker.versions(__version__), 1, ".")
    assert kind == "refused" and why.endswith(
        f"no peftsweep {__version__} that works: OSError: libcudnn.so.9: cannot open shared object file"
    )


def test_a_method_that_workers_cannot_import_is_refused(tmp_path: Path) -> None:
    class Inside(Lora):
        spec = MethodSpec("inside", LoraHyperparameters)

    here = home(tmp_path / "home")
    register(Inside)
    try:
        with pytest.raises(UsageError, match=r"^method inside: another process cannot import tests\.test_ray_pool\."):
            with_method(WorkerSpec(load(here.study(method="inside")), cast(Dataset, None), [], [], 1))
    finally:
        del METHODS["inside"], SPECS["inside"]


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "artifacts" / "small").mkdir(parents=True)
    (tmp_path / "artifacts" / "small" / "owner.json").write_text('{"key": "k"}')
    return tmp_path / "artifacts" / "small"


def folder_there(landmark: Landmark, study: Path) -> tuple[CheckpointFolders, Path]:
    """What a worker makes of a trial's folder."""
    folders = CheckpointFolders(landmark)
    (command,) = folders.here([StartTrials((Trial(7, 0, TrainConfig(), study / "trial-0007"),))])
    assert isinstance(command, StartTrials)
    return folders, command.trials[0].folder


def test_a_worker_that_sees_the_study_s_folder_uses_it(study: Path) -> None:
    folders, folder = folder_there(Landmark.of(study / "owner.json"), study)
    assert folders.shared and folder == study / "trial-0007"


def test_a_worker_that_sees_only_a_copy_keeps_checkpoints_on_its_machine(study: Path, tmp_path: Path) -> None:
    landmark = Landmark.of(study / "owner.json")
    shutil.copytree(study, tmp_path / "copy")
    study.rename(tmp_path / "original")
    (tmp_path / "copy").rename(study)
    folders, folder = folder_there(landmark, study)
    assert not folders.shared and folder.parent.parent == tmp_path / "cache" / "peftsweep" / "checkpoints"


def aged(root: Path, days: dict[str, int]) -> None:
    """Make folders of trials that were last changed so many days ago."""
    for name, age in days.items():
        folder = root / "study" / name
        folder.mkdir(parents=True)
        (folder / "state").touch()
        os.utime(folder, (time.time() - age * 24 * 3600,) * 2)


def test_forgotten_checkpoints_are_removed(tmp_path: Path) -> None:
    aged(tmp_path, {"old": DAYS + 1, "new": DAYS - 1})
    remove_forgotten(tmp_path)
    assert [folder.name for folder in (tmp_path / "study").iterdir()] == ["new"]


def test_two_workers_may_remove_the_same_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(tmp_path, dict.fromkeys(("first", "second", "third"), DAYS + 1))
    remove = shutil.rmtree

    def with_the_other(folder: Path, ignore_errors: bool) -> None:
        """The other worker is faster with all that follow."""
        for each in tmp_path.glob("*/*"):
            remove(each)

    monkeypatch.setattr(shutil, "rmtree", with_the_other)
    remove_forgotten(tmp_path)
    assert list((tmp_path / "study").iterdir()) == []
