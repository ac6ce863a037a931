"""Do the files of docker/k8s/ follow the schemas of Kubernetes and KubeRay, and agree with each other and the image?"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.services import ROOT, SECRETS, compose

FILES = {file.stem: file for file in sorted((ROOT / "docker" / "k8s").glob("*.yaml"))}
SCHEMA = ROOT / "tests" / "recorded" / "kubernetes.json"
BIN = Path(sys.executable).parent


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    return content


def cluster(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(name)["spec"]
    found: dict[str, Any] = spec.get("rayClusterSpec", spec)
    return found


def pods(name: str) -> dict[str, dict[str, Any]]:
    """The one container of each kind of pod."""

    def templates(value: Any) -> Iterator[dict[str, Any]]:
        for key, each in (
            value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
        ):
            if key == "template":
                yield each["spec"]
            else:
                yield from templates(each)

    return {
        container["name"]: container | {"pod": pod} for pod in templates(read(name)) for container in pod["containers"]
    }


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container.get("env", [])}


def checked(*files: Path) -> subprocess.CompletedProcess[str]:
    words = [str(BIN / "check-jsonschema"), "--schemafile", str(SCHEMA), *map(str, files)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_files_follow_the_schemas() -> None:
    assert FILES.keys() == {"raycluster", "rayjob", "sweep"}
    done = checked(*FILES.values())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("raycluster", "tcpSocket", "tcpSock"),
        ("raycluster", "rayStartParams", "startParams"),
        ("raycluster", 'num-cpus: "0"', "num-cpus: 0"),
        ("rayjob", "backoffLimit: 20", "backoffLimit: often"),
        ("rayjob", "mode: token", "mode: password"),
        ("rayjob", "groupName: gpu", "name: gpu"),
        ("sweep", "secretKeyRef", "secretRef"),
        ("sweep", "kind: Job", "kind: RayJobs"),
    ],
)
def test_the_schemas_find_mistakes(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "wrong.yaml").write_text(text.replace(right, wrong), encoding="utf-8")
    assert checked(tmp_path / "wrong.yaml").returncode == 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_with_its_command_and_what_it_needs(name: str) -> None:
    opening = re.match(r"(# .*\n)+", FILES[name].read_text(encoding="utf-8"))
    assert opening and f"kubectl apply --filename docker/k8s/{name}.yaml" in opening[0] and "# Needs: " in opening[0]


def test_ray_is_the_version_of_the_image_and_asks_for_a_token() -> None:
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for name in ("raycluster", "rayjob"):
        assert (cluster(name)["rayVersion"], cluster(name)["authOptions"]) == (pinned, {"mode": "token"})
    secret = environment(pods("sweep")["sweep"])["RAY_AUTH_TOKEN"]["secretKeyRef"]
    assert secret == {"name": read("raycluster")["metadata"]["name"], "key": "auth_token"}


def test_only_the_sweep_has_the_password() -> None:
    holders = {(file, name) for file in FILES for name, pod in pods(file).items() if "PGPASSWORD" in environment(pod)}
    assert holders == {("sweep", "sweep"), ("rayjob", "ray-head")}
    for file in ("raycluster", "rayjob"):
        assert cluster(file)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"  # no worker beside the password
    assert "env --unset=PGPASSWORD ray start" in pods("sweep")["sweep"]["command"][2]
    assert all("value" not in each for pod in pods("sweep").values() for each in pod["env"] if "PASS" in each["name"])


def test_a_sweep_does_what_it_does_with_compose() -> None:
    services = compose(SECRETS)["services"]
    there = {
        key: value
        for key, value in services["worker"]["environment"].items()
        if key in ("PEFTSWEEP_STORAGE", "MLFLOW_TRACKING_URI")
    }
    shell = [word.strip() for word in pods("sweep")["sweep"]["command"]]
    assert [" ".join(shell[2].split()).replace(" --disable-usage-stats", ""), *shell[3:]] == [
        word.replace("ray-head", "peftsweep-head-svc") for word in services["sweep"]["command"][2:4]
    ]
    entries = [pods("sweep")["sweep"]["args"], shlex.split(read("rayjob")["spec"]["entrypoint"])]
    for words, pod in zip(entries, (pods("sweep")["sweep"], pods("rayjob")["ray-head"]), strict=True):
        assert there.items() <= environment(pod).items()
        options = {word.partition("=")[0] for word in words[2:]}
        assert words[:2] == ["peftsweep", "run"] and options == {"--study", "--workers", "--ray-address"}
        assert options <= {word for word in services["sweep"]["command"] if word.startswith("--")}


@pytest.mark.parametrize("name", FILES)
def test_pods_run_as_the_image_s_user_with_no_rights(name: str) -> None:
    for container in pods(name).values():
        user = container["pod"]["securityContext"]
        assert (user["runAsNonRoot"], user["runAsUser"]) == (True, 1000)
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        mounted = {each["name"] for each in container.get("volumeMounts", [])}
        assert mounted == {each["name"] for each in container["pod"].get("volumes", [])}
