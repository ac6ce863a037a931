"""A cluster of Ray on this machine, whose nodes a test adds and removes.

Another process holds it, since Ray changes the process that it lives in. All its nodes end with that process. It runs
this file, which therefore imports nothing that loads torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.fork_server import ROOT
from tests.programs import free_port

LOOPBACK = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray takes the machine's outward address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


class RayCluster:
    """A head without workers' places but with a client server, and nodes with one place each.

    Args:
        folder: with a short path, because Ray's sockets lie in it.
        hidden: a folder that its nodes do not see.
    """

    def __init__(self, folder: Path, hidden: Path | None = None) -> None:
        (folder / "ray").mkdir()
        port = str(free_port())
        self.client = f"ray://127.0.0.1:{port}"
        words = [sys.executable, "-m", "tests.ray_cluster", str(folder), port]
        if hidden is not None:
            mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            words = ["unshare", "--mount", "sh", "-c", mount, str(hidden), *words]
        changes = {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=os.environ | ENVIRONMENT | changes,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.address = self._told()
        self.nodes: list[str] = []

    def _told(self) -> str:
        assert self.process.stdout is not None
        told = self.process.stdout.readline().strip()
        assert told, f"the cluster has ended: {self.log.read_text()[-2000:]}"
        return told

    def _tell(self, *words: object) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self._told()

    def add(self, gpus: int = 0, cpus: int = 1, **env: str) -> str:
        """Add a node, with these environment variables besides; returns its name.

        Args:
            gpus: that it claims to have. Its workers train on its CPU nevertheless.
            cpus: that it claims to have; at least one for each GPU.
        """
        self.nodes.append(self._tell("add", gpus, max(cpus, gpus), env))
        return self.nodes[-1]

    def remove(self, node: str, orderly: bool = False) -> None:
        """
        Args:
            orderly: it takes its leave. Otherwise the cluster counts it for some more seconds.
        """
        self._tell("remove", node, orderly)
        self.nodes.remove(node)

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Nodes that are added inside the block leave at its end."""
        before = set(self.nodes)
        try:
            yield
        finally:
            for node in [node for node in self.nodes if node not in before]:
                self.remove(node, orderly=True)

    def kill_head(self) -> None:
        self._tell("remove", "head", False)

    @contextmanager
    def claiming(self, ray_version: str, python_version: str) -> Iterator[None]:
        """It says that it was started with these versions."""
        own = self._tell("claim", {"ray_version": ray_version, "python_version": python_version})
        try:
            yield
        finally:
            self._tell("claim", json.loads(own))

    def kill_client_server(self) -> None:
        for process, words in descendants(self.process.pid).items():
            if "ray.util.client.server" in words:
                os.kill(process, signal.SIGKILL)

    def workers(self) -> list[int]:
        """The processes of its workers."""
        return workers_of(self.process.pid)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def ray_cluster(hidden: Path | None = None) -> Iterator[RayCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    cluster = None
    try:
        cluster = RayCluster(folder, hidden)
        yield cluster
    finally:
        if cluster is not None:
            cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def descendants(ancestor: int) -> dict[int, str]:
    """The processes that a process has started, directly or not, and their command lines."""
    found: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(folder.name)] = parent, (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
    ours = {ancestor}
    while new := {process for process, (parent, _) in found.items() if parent in ours} - ours:
        ours |= new
    return {process: found[process][1] for process in sorted(ours - {ancestor})}


def alive(processes: Mapping[int, str]) -> dict[int, str]:
    """Those that have not ended. One that nobody has asked how it ended still has a folder in /proc."""
    left = {}
    for process, words in processes.items():
        with suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                left[process] = words
    return left


def workers_of(ancestor: int) -> list[int]:
    return [process for process, words in descendants(ancestor).items() if words.startswith("ray::SweepWorker")]


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _serve(folder: str, port: int) -> None:
    """Obey lines from the standard input until it ends."""
    from ray.cluster_utils import Cluster

    head = {**LOOPBACK, "num_cpus": 0, "temp_dir": folder, "ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    _answer(cluster.address)
    nodes = {"head": cluster.head_node}
    for line in sys.stdin:
        match json.loads(line):
            case "add", gpus, cpus, env:
                name = f"node {len(nodes)}"
                before = os.environ.copy()
                os.environ.update(env)  # the node's processes inherit it
                nodes[name] = cluster.add_node(**LOOPBACK, num_cpus=cpus, num_gpus=gpus)
                os.environ.clear()
                os.environ.update(before)
                _answer(name)
            case "claim", versions:
                _answer(json.dumps(_claim(cluster.head_node.get_gcs_client(), versions)))
            case "remove", name, orderly:
                cluster.remove_node(nodes[name], allow_graceful=orderly)
                _answer(name)
    cluster.shutdown()


def _claim(head: Any, versions: dict[str, str]) -> dict[str, str]:
    """Replaces what the head says of the cluster's versions; returns what it said before."""
    from ray._common.usage.usage_constants import CLUSTER_METADATA_KEY
    from ray._private.ray_constants import KV_NAMESPACE_CLUSTER

    before = json.loads(head.internal_kv_get(CLUSTER_METADATA_KEY, namespace=KV_NAMESPACE_CLUSTER))
    told = json.dumps(before | versions).encode()
    head.internal_kv_put(CLUSTER_METADATA_KEY, told, overwrite=True, namespace=KV_NAMESPACE_CLUSTER)
    return {key: before[key] for key in versions}


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
