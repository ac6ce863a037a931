"""Are the files of docker/ right, and does a sweep work with the same services? Docker itself is not needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from string import Template
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from peftsweep.models.location import cache_folder
from tests.postgresql import served
from tests.programs import free_port
from tests.services import COMPOSE, ROOT, SECRETS, Services, compose, make_databases, started
from tests.studies import home, until

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
PINNED = re.compile(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}")


def instructions(name: str) -> list[str]:
    """What follows each use of an instruction in the Dockerfile, with continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def secrets_in(text: str) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret in text]


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_compose_file_follows_its_schema(tmp_path: Path) -> None:
    def check(file: Path) -> subprocess.CompletedProcess[str]:
        words = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    done = check(COMPOSE)
    assert done.returncode == 0, done.stdout
    (tmp_path / "wrong.yaml").write_text(COMPOSE.read_text(encoding="utf-8").replace("depends_on:", "depend_on:"))
    assert check(tmp_path / "wrong.yaml").returncode == 1


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    done = subprocess.run([str(BIN / "hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_images_are_pinned_and_no_container_runs_as_root() -> None:
    stages = {name for _, name in re.findall(r"^FROM (\S+) AS (\w+)", DOCKERFILE, re.MULTILINE)}
    defaults = dict(line.split("=", 1) for line in instructions("ARG"))
    bases = {Template(line.split()[0]).substitute(defaults) for line in instructions("FROM")} - stages
    images = {service["image"] for service in compose(SECRETS)["services"].values() if "build" not in service}
    assert len(bases | images) == 2 and all(PINNED.fullmatch(image) for image in bases | images)
    assert all("nvidia/cuda" in base for base in bases)
    last = DOCKERFILE.rpartition("FROM ")[2]
    assert "\nUSER " in last and instructions("USER")[-1] == "1000:1000"
    for name, service in compose(SECRETS)["services"].items():
        assert not service.keys() & {"user", "privileged", "network_mode", "pid", "cap_add"}, name


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {source for line in instructions("COPY") for source in line.split()[:-1]}
    assert {"peftsweep", "sweeps", "pyproject.toml", "constraints.txt"} <= copied
    for source in copied:
        assert (ROOT / source).exists() and f"!{source}" in rules, source
    assert rules[1] == "*" and {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert not any(fnmatch(".env", rule) for rule in rules if rule.startswith("!"))


def test_the_layer_of_packages_has_what_the_project_requires() -> None:
    (command,) = [line for line in instructions("RUN") if "requirements.py" in line]
    assert "--constraint constraints.txt --requirement requirements.txt" in command
    words = shlex.split(command.partition(">")[0])
    assert words[:2] == ["python", "requirements.py"]
    listed = subprocess.check_output([sys.executable, str(DOCKER / words[1]), *words[2:]], cwd=ROOT, text=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert listed.splitlines() == [*project["dependencies"], *extras["demo"], *extras["postgres"], *extras["kuberay"]]
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in listed.splitlines()}  # type: ignore[index]
    assert names | {"setuptools"} <= {name.lower().replace("_", "-") for name in pinned}  # PyTorch requires it


def image_check() -> list[str]:
    (line,) = instructions("HEALTHCHECK")
    command: list[str] = json.loads(line[line.index("[") :])
    return command


def commands(service: str) -> list[list[str]]:
    """The commands that a service's container runs. A shell's are separated by &&, and "$@" is what follows --."""
    command: list[str] = compose(SECRETS)["services"][service]["command"]
    if command[:2] != ["sh", "-c"]:
        return [command]
    first, _, last = command[2].partition(" && ")
    assert (last, command[3]) == ('exec "$@"', "--")
    return [shlex.split(first), command[4:]]


def test_the_commands_in_containers_exist() -> None:
    joined, swept = commands("sweep")
    assert joined[:2] == ["env", "--unset=PGPASSWORD"]
    run = [
        joined[2:],
        swept,
        *(commands(name)[0] for name in ("mlflow", "worker", "ray-head", "ray-node")),
        image_check(),
    ]
    for program, name, *words in run:
        known = subprocess.check_output([str(BIN / program), name, "--help"], text=True, timeout=60)
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given and given <= set(re.findall(r"--[a-z-]+", known)), f"{program} {name}"


def test_the_image_is_built_and_never_pulled() -> None:
    built = [service for service in compose(SECRETS)["services"].values() if "build" in service]
    assert len(built) == 5 and all(service["pull_policy"] == "build" for service in built)


def test_a_worker_s_downloads_and_conversions_outlive_its_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/peftsweep")
    monkeypatch.delenv("PEFTSWEEP_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    places = [Path(volume.split(":")[1]) for volume in compose(SECRETS)["services"]["worker"]["volumes"]]
    for folder in (cache_folder(), Path("~/.cache/huggingface").expanduser()):
        assert any(folder.is_relative_to(place) for place in places), folder
    owned = " ".join(line for line in instructions("RUN") if "mkdir --parents" in line)
    assert all(f"{place} " in owned for place in places)


def test_no_documented_command_needs_a_running_worker() -> None:
    readme = (DOCKER / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    docker compose \S+ \S+ ([\s\S]*?[^\\])$", readme, re.MULTILINE)
    assert {command.split()[0] for command in commands} == {"up", "logs", "run"}


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    for name in SECRETS:
        with pytest.raises(KeyError, match=f"{name}: see docker/.env.example"):
            compose({key: value for key, value in SECRETS.items() if key != name})
    example = (DOCKER / ".env.example").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE))
    assert set(re.findall(r"\$\{(\w+)", COMPOSE.read_text(encoding="utf-8"))) == set(shown)
    assert all(shown[name] == "" for name in SECRETS)
    assert compose(SECRETS) == compose(SECRETS | {name: value for name, value in shown.items() if value})


def test_creating_the_databases_shows_no_password_in_the_process_list(tmp_path: Path) -> None:
    psql = tmp_path / "psql"
    psql.write_text('#!/bin/sh\necho "$0 $*"\n')
    psql.chmod(0o755)
    env = SECRETS | {"POSTGRES_USER": "postgres", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    listed = subprocess.check_output(["bash", str(DOCKER / "databases.sh")], env=env, text=True)
    assert listed.count(str(psql)) == 2 and secrets_in(listed) == []


def test_ports_are_local_and_services_wait_for_what_they_need() -> None:
    services = compose(SECRETS)["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2 and all(port.startswith("127.0.0.1:") for port in ports)
    needs = {name: service.get("depends_on", {}) for name, service in services.items()}
    healthy, begun = {"condition": "service_healthy"}, {"condition": "service_started"}
    assert needs == {
        "postgres": {},
        "mlflow": {"postgres": healthy},
        "worker": {"postgres": healthy, "mlflow": begun},  # a sweep runs even if the tracker is down
        "ray-head": {},
        "ray-node": {"ray-head": healthy},
        "sweep": {"postgres": healthy, "mlflow": begun, "ray-head": healthy, "ray-node": begun},
    }
    assert all("healthcheck" in services[name] for name in ("postgres", "mlflow", "ray-head"))
    for name in ("worker", "sweep"):
        assert services[name]["restart"] == "on-failure"  # any number of times, but not after success
    for name, count in {"worker": 1, "ray-node": "all"}.items():
        (gpu,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (gpu["driver"], gpu["count"], gpu["capabilities"]) == ("nvidia", count, ["gpu"])


def test_the_profile_ray_has_a_head_nodes_and_a_sweep_that_alone_has_the_password() -> None:
    services = compose(SECRETS | {"RAY_AUTH_TOKEN": "the token", "RAY_NODES": "3", "WORKERS": "6"})["services"]
    ray = {name: each["environment"] for name, each in services.items() if each.get("profiles") == ["ray"]}
    assert ray.keys() == {"ray-head", "ray-node", "sweep"} and services["ray-node"]["deploy"]["replicas"] == "3"
    assert {(each["RAY_AUTH_MODE"], each["RAY_AUTH_TOKEN"]) for each in ray.values()} == {("token", "the token")}
    assert secrets_in(str(services["ray-head"]) + str(services["ray-node"])) == []
    assert services["worker"]["environment"].items() <= ray["sweep"].items()
    assert services["worker"]["volumes"] == services["ray-node"]["volumes"] == services["sweep"]["volumes"]
    assert services["sweep"]["command"][-4:] == ["--workers", "6", "--ray-address", "ray-head:6379"]


# Services -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """PostgreSQL and MLflow as in the compose file. The worker's folder has the studies demo and killed."""
    place = tmp_path_factory.mktemp("docker")
    here = home(place / "work", mlflow=False)
    (here.folder / "sweeps").mkdir()
    here.study("sweeps/demo", search={"trials": 2})
    here.study("sweeps/killed", train={"epochs": 15, "evals_per_epoch": 1}, search={"trials": 2})
    with started(place) as services:
        yield services


def mlflow(services: Services, path: str, **body: Any) -> Any:
    """Ask MLflow's REST API at the server's own address."""
    data = json.dumps(body).encode() if body else None
    request = Request(f"{services.mlflow}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        return json.load(answer)


def runs(services: Services, study: str) -> dict[str, dict[str, Any]]:
    """The runs in MLflow of a study's trials, by number, and of the study itself, as "parent"."""
    experiments = mlflow(services, "experiments/search", max_results=9)["experiments"]
    found = mlflow(services, "runs/search", experiment_ids=[each["experiment_id"] for each in experiments])["runs"]
    tags = {run["info"]["run_id"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in found}
    (parent,) = [run for run in found if run["info"]["run_name"] == study]
    own = [run for run in found if tags[run["info"]["run_id"]].get("mlflow.parentRunId") == parent["info"]["run_id"]]
    return {"parent": parent} | {tags[run["info"]["run_id"]]["peftsweep.trial"]: run for run in own}


def test_the_worker_runs_its_study_on_the_services(services: Services) -> None:
    before = sorted(services.work.rglob("*"))
    done = services.call()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "demo: 2 complete · best macro-F1" in done.stderr
    assert sorted(services.work.rglob("*")) == before  # because that folder is read-only in the container
    found = runs(services, "demo")
    assert found.keys() == {"parent", "0", "1"} and {run["info"]["status"] for run in found.values()} == {"FINISHED"}
    run_id = found["1"]["info"]["run_id"]
    history = mlflow(services, f"metrics/get-history?run_id={run_id}&metric_key=macro_f1")["metrics"]
    assert len(history) == 4
    listed = {file["path"] for file in mlflow(services, f"artifacts/list?run_id={run_id}")["files"]}
    assert {"adapter", "per_class.json", "confusion_matrix.png"} <= listed
    with urlopen(f"{services.mlflow}/get-artifact?path=per_class.json&run_uuid={run_id}") as answer:
        (kept,) = (services.folder / "data" / "artifacts" / "demo" / "trial-0001").glob("per_class.json")
        assert answer.read() == kept.read_bytes()
    assert list((services.folder / "data" / "mlflow").rglob("per_class.json"))


def test_commands_read_the_study_in_postgresql(services: Services, tmp_path: Path) -> None:
    commands = (("best", "--json"), ("status",), ("sync", "--study", "demo"))
    best, status, sync = (services.call("peftsweep", *words) for words in commands)
    (row,) = [row for row in json.loads(best.stdout) if row["study"] == "demo"]
    assert Path(row["adapter"]).is_relative_to(services.folder / "data" / "artifacts") and Path(row["adapter"]).is_dir()
    assert row["mlflow_run_id"] == runs(services, "demo")[str(row["trial"])]["info"]["run_id"]
    assert re.search(r"^demo +2 +0 +0 +0 +0\.\d", status.stdout, re.MULTILINE)
    assert "demo: nothing was missing" in sync.stderr
    exported = services.call("peftsweep", "export", "--study", "demo", str(tmp_path / "adapter"))
    assert exported.returncode == 0 and (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_the_image_s_health_check_queries_the_storage(services: Services) -> None:
    done = services.call(*image_check())
    assert done.returncode == 0 and isinstance(json.loads(done.stdout), list)
    services.server.execute("ALTER ROLE studies NOLOGIN")
    try:
        assert services.call(*image_check()).returncode == 1 and not services.is_healthy("postgres")
    finally:
        services.server.execute("ALTER ROLE studies LOGIN")
    assert services.is_healthy("postgres")


def test_postgresql_is_not_healthy_if_its_databases_could_not_be_made(tmp_path: Path) -> None:
    with served(SECRETS["POSTGRES_PASSWORD"]) as server:
        services = Services(tmp_path, tmp_path, server, free_port(), compose(SECRETS))
        server.execute("CREATE ROLE mlflow")
        with pytest.raises(AssertionError, match='role "mlflow" already exists'):
            make_databases(services)
        assert not services.is_healthy("postgres")


def test_a_killed_worker_resumes(services: Services) -> None:
    words = ("peftsweep", "run", "--study", "killed", "--slots", "1", "--checkpoint-every", "0s")
    folder = services.folder / "data" / "artifacts" / "killed"
    first = services.start_worker(*words, fresh=True)
    until(lambda: list(folder.glob("trial-0001/checkpoint-*-03")), first)
    first.send_signal(signal.SIGSTOP)  # otherwise it ends before the second one has started
    listed = subprocess.check_output(["ps", "-ewwo", "args"], text=True)  # whole lines, whatever COLUMNS says
    assert "--study killed" in listed and "mlflow server" in listed and secrets_in(listed) == []
    busy = services.call(*words)
    assert busy.returncode == 1 and f"is being run by process {first.pid} on" in busy.stderr
    first.kill()
    first.communicate()
    adapter = folder / "trial-0000" / "adapter" / "adapter_model.safetensors"
    finished = adapter.stat()
    again = services.call(*words)
    assert again.returncode == 0 and "1 of 2 done" in again.stderr and "killed: 2 complete" in again.stderr
    now = adapter.stat()  # the number of its links may have dropped
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (finished.st_ino, finished.st_size, finished.st_mtime_ns)
    found = runs(services, "killed")
    assert found.keys() == {"parent", "0", "1"} and {run["info"]["status"] for run in found.values()} == {"FINISHED"}


def test_mlflow_answers_only_to_its_own_host_names(services: Services) -> None:
    def status(host: str) -> int:
        address = f"{services.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
        try:
            with urlopen(Request(address, headers={"Host": host})) as answer:
                return int(answer.status)
        except HTTPError as error:
            error.close()
            return error.code

    assert status(f"mlflow:{services.mlflow_port}") == status("localhost:5001") == 200
    assert status("elsewhere.example") == 403


def test_each_user_has_its_own_database(services: Services) -> None:
    env = services.environment("worker")
    for database, said in {"studies": "1\n", "mlflow": "permission denied for database"}.items():
        words = ["psql", "-tA", "-h", "127.0.0.1", "-p", str(services.server.port), "-U", "studies", "-c", "SELECT 1"]
        done = subprocess.run([*words, database], env=env, capture_output=True, text=True, timeout=30)
        assert said in done.stdout + done.stderr


def test_no_log_contains_a_password(services: Services) -> None:
    shown = services.call("peftsweep", "run", "--study", "nothing").stderr
    shown += (services.folder / "mlflow.log").read_text() + (services.server.folder / "log").read_text()
    assert "mlflow" in shown and secrets_in(shown) == []
