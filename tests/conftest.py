"""What do all tests share? No network, few threads, and libraries imported before warnings become errors."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"
# Ray would end workers while the memory is nearly full, whoever fills it.
os.environ.update({"RAY_memory_monitor_refresh_ms": "0"})
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models are slower with more threads. Processes that tests start inherit this.
os.environ["OMP_NUM_THREADS"] = os.environ.get("PEFTSWEEP_TEST_THREADS", "1")

# A sweep's databases would wait for the disk hundreds of times, which tests nothing. So use memory if there is enough.
if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's interpreter runs kernels on a CPU. Triton reads this when it is imported, which many libraries do.
    os.environ["TRITON_INTERPRET"] = "1"

import transformers
from alembic.util import pyfiles
from psycopg import sql

from tests import fork_server, numbers
from tests.postgresql import PASSWORD, USER, Server, served

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background job, programs would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
transformers.utils.logging.disable_progress_bar()

# Opening a database of Optuna or MLflow makes alembic execute the files of all migrations, which never change.
execute, migration = pyfiles.load_module_py, cache(pyfiles.load_module_py)
pyfiles.load_module_py = lambda name, path: (migration if "versions" in str(path) else execute)(name, path)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Up to two processes more than cores if each has 4 GiB of memory, because tests also wait for servers."""
    cores = yield
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return cores
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(cores, min(cores + 1, memory // (6 * 2**30)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # An earlier test may have changed the number. Two threads would mean two CPU workers and other micro-batches.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    numbers.marked = any(item.get_closest_marker(name) for name in ("numbers", "gpu"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))


def pytest_collectstart() -> None:
    gc.disable()  # imports create a million objects but no garbage


def pytest_collection_finish() -> None:
    # imported objects stay alive, so the garbage collector need not visit them again and again
    gc.collect()
    gc.freeze()
    gc.set_threshold(*fork_server.SELDOM)
    gc.enable()


def pytest_fixture_setup() -> None:
    torch.manual_seed(0)  # a fixture draws the same weights whatever ran before it


def pytest_runtest_call() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Compute in float64, so that rounding hides nothing; see `numbers.float64`."""
    with numbers.float64():
        yield


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `multiprocessing` fork its processes from one that has imported the libraries."""
    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", fork_server.spawn)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server with a user who may create things only in its own databases."""
    with served() as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD)))
        yield server
