"""The services of docker/compose.yaml without Docker: their own commands and environment, on free ports of 127.0.0.1.

    python -m tests.services FOLDER

starts PostgreSQL and MLflow's server, prints how to run the worker with them, and stops them at Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.fork_server import Program, python_path
from tests.postgresql import PASSWORD, Server, needed, run, served
from tests.programs import free_port

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker" / "compose.yaml"
SECRETS = {name: f"{name.lower()} {PASSWORD}" for name in ("POSTGRES_PASSWORD", "STUDIES_PASSWORD", "MLFLOW_PASSWORD")}


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file with its variables filled in as Docker does it. Raises KeyError if a required one is missing."""
    filled: dict[str, Any] = _filled(yaml.safe_load(COMPOSE.read_text(encoding="utf-8")), variables)
    return filled


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, variables) for each in value]
    if not isinstance(value, str):
        return value

    def given(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == ":?":
            raise KeyError(f"{name}: {word}")
        return word or ""

    return re.sub(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}", given, value).replace("$$", "$")


@dataclass(frozen=True)
class Services:
    """A running PostgreSQL and MLflow server, and everything that the worker needs.

    Args:
        folder: holds the volumes, at the same paths as in a container: data/artifacts, data/mlflow.
        work: the worker's working folder.
    """

    folder: Path
    work: Path
    server: Server
    mlflow_port: int
    compose: dict[str, Any]

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"

    def here(self, text: str) -> str:
        """Replace the hosts, ports and volumes of a container by those of this machine."""
        for there, found in {
            r"(?<=@|/)(postgres|mlflow)(?=:\d)|0\.0\.0\.0": "127.0.0.1",
            r"\b5432\b": str(self.server.port),
            r"\b5000\b": str(self.mlflow_port),
            r"(?<!\w)/data/": f"{self.folder}/data/",
        }.items():
            text = re.sub(there, found, text)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The environment of a service's processes, without variables of this process for the same programs."""
        own = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "MLFLOW", "PEFTSWEEP"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), str(needed()), own["PATH"]])
        given = self.compose["services"][service]["environment"]
        return own | {"PATH": path, "PYTHONPATH": python_path()} | {key: self.here(each) for key, each in given.items()}

    def command(self, service: str) -> list[str]:
        return [self.here(word) for word in self.compose["services"][service]["command"]]

    def is_healthy(self, service: str) -> bool:
        """Run the service's own health check in its own environment."""
        kind, *command = self.compose["services"][service]["healthcheck"]["test"]
        assert kind == "CMD"
        words = [self.here(word) for word in command]
        # PostgreSQL's image needs no password from its own 127.0.0.1; this server always needs one.
        place = {"PGPORT": str(self.server.port), "PGPASSWORD": SECRETS["STUDIES_PASSWORD"]}
        env = place | self.environment(service)
        return subprocess.run(words, env=env, capture_output=True, timeout=30).returncode == 0

    def start_worker(self, *words: str, fresh: bool = False) -> subprocess.Popen[str]:
        """Start the worker's command, or another one of peftsweep.

        Args:
            fresh: start the installed program, which imports its libraries itself.
        """
        name, *rest = words or self.command("worker")
        env = self.environment("worker")
        if fresh:
            return subprocess.Popen([name, *rest], cwd=self.work, env=env, stdout=-1, stderr=-1, text=True)
        return Program(["-m", name, *rest], self.work, dict.fromkeys(os.environ) | env)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start_worker(*words)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def started(folder: Path, study: str = "demo") -> Iterator[Services]:
    """Start both servers in the order of the compose file, each after those it depends on are healthy.

    Args:
        folder: for the volumes and the worker's working folder, `work`.
    """
    (folder / "work").mkdir(exist_ok=True)
    written = compose(SECRETS | {"STUDY": study})
    with served(SECRETS["POSTGRES_PASSWORD"]) as server:
        services = Services(folder, folder / "work", server, free_port(), written)
        make_databases(services)
        _until(lambda: services.is_healthy("postgres"))
        with _mlflow(services):
            yield services


def make_databases(services: Services) -> None:
    """Run the script as PostgreSQL's image does at its first start: as superuser, over the socket, without password."""
    place = {"PGHOST": str(services.server.folder), "PGPORT": str(services.server.port)}
    env = services.environment("postgres") | place | {"PGPASSWORD": services.server.password}
    script = ROOT / "docker" / "databases.sh"
    assert f"./{script.name}:/docker-entrypoint-initdb.d/{script.name}:ro" in _volumes(services, "postgres")
    run("bash", "-s", cwd=services.server.folder, env=env, given=script.read_text(encoding="utf-8"))


def _volumes(services: Services, service: str) -> list[str]:
    found: list[str] = services.compose["services"][service]["volumes"]
    return found


@contextmanager
def _mlflow(services: Services) -> Iterator[None]:
    log = services.folder / "mlflow.log"
    with log.open("w") as chatter:
        server = subprocess.Popen(
            services.command("mlflow"),
            cwd=services.folder,
            env=services.environment("mlflow"),
            stdin=subprocess.DEVNULL,
            stdout=chatter,
            stderr=chatter,
            start_new_session=True,
        )
    try:
        _until(lambda: services.is_healthy("mlflow"), lambda: server.poll() is None, log)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def _until(healthy: Any, alive: Any = lambda: True, log: Path | None = None, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not healthy():
        assert alive() and time.monotonic() < end, log.read_text() if log else "the service does not become healthy"
        time.sleep(0.2)


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(exist_ok=True)
    with started(folder) as services:
        names = services.compose["services"]["worker"]["environment"]
        there = " ".join(f"{name}={shlex.quote(services.environment('worker')[name])}" for name in names)
        print(
            f"MLflow: {services.mlflow}\n(cd {services.work} && {there} {shlex.join(services.command('worker'))})",
            flush=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
