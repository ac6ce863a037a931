"""What holds for all tests: no network, few threads, libraries imported before their warnings count."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models are slower with more threads; the same in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ.get("PEFTSWEEP_TEST_THREADS", "1")

# A sweep's databases wait for the disk hundreds of times, which tests nothing: use memory where there is enough.
if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's interpreter runs kernels on a CPU. It is asked for as triton is imported, which many libraries do.
    os.environ["TRITON_INTERPRET"] = "1"

import transformers
from alembic.util import pyfiles
from psycopg import sql

from tests import fork_server, numbers
from tests.postgresql import PASSWORD, USER, Server, served

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job, whose programs would not heed Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
transformers.utils.logging.disable_progress_bar()

# Whoever opens a database of Optuna or MLflow has alembic execute the files of all migrations, which stay the same.
execute, migration = pyfiles.load_module_py, cache(pyfiles.load_module_py)
pyfiles.load_module_py = lambda name, path: (migration if "versions" in str(path) else execute)(name, path)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than cores, because tests also wait for servers and browsers, if each has 4 GiB of memory."""
    cores = yield
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    asked = "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ
    return cores if asked or memory < (cores + 1) * 4 * 2**30 else cores + 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # The test before may have changed the number. Two threads would mean two workers, and other micro-batches.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    numbers.marked = any(item.get_closest_marker(name) for name in ("numbers", "gpu"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; none here"))


def pytest_collectstart() -> None:
    gc.disable()  # imports make a million objects and no garbage


def pytest_collection_finish() -> None:
    # what was imported stays: the garbage collector need not look at it again and again
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_fixture_setup() -> None:
    torch.manual_seed(0)  # weights that a fixture draws are the same whatever ran before it


def pytest_runtest_call() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Rounding hides nothing: see `numbers.float64`."""
    with numbers.float64():
        yield


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`multiprocessing` forks its processes from one that has imported the libraries."""
    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", fork_server.spawn)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server with a user that may make nothing but what is in its own databases."""
    with served() as server:
        server.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD)))
        yield server
