"""What does the command line accept and print, which exit status does it return, and what does the wheel contain?"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import typer

import peftsweep
from peftsweep import cli
from peftsweep.cli.options import duration, worker_timeout
from peftsweep.progress import Stage
from peftsweep.system import error_report
from tests.stored import add_study
from tests.studies import Home, home

ROOT = Path(__file__).parents[1]


def peftsweep_(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real program in its own process."""
    return Home(cwd).call(*words, **{"COLUMNS": "120"} | env)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A folder in which a small study has run."""
    place = home(tmp_path_factory.mktemp("cli") / "home")
    place.run(place.study(), trials=2, slots=2)
    return place


def test_best_is_a_marked_row_with_hyperparameters_and_adapter_below(here: Home) -> None:
    done = peftsweep_("best", cwd=here.folder)
    (best,) = peftsweep.best(here.storage)
    header, row, _, legend, _, where, how, adapter = (line.split() for line in done.stdout.splitlines())
    assert " ".join(legend) == "* the best macro-F1 on the same validation rows"
    assert header == ["study", "method", "trial", "macro-F1", "micro-F1", "accuracy", "loss"]
    assert row[:5] == ["*", "small", "lora", str(best.trial), f"{best.macro_f1:.3f}"]
    assert where[:5] == ["small:", "trial", str(best.trial), "on", best.model]
    assert where[5:] == (["(tied", "with", "trial", f"{best.tied[0]})"] if best.tied else [])
    assert how[0] == "lr" and how[2:] == ["rank", str(best.params["rank"])]
    assert adapter == [f"artifacts/small/trial-000{best.trial}/adapter"]
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_all_that_is_printed_and_has_the_documented_keys(here: Home) -> None:
    done = peftsweep_("best", "--json", cwd=here.folder)
    (row,) = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    keys = ["study", "model", "method", "trial", "macro_f1", "micro_f1", "accuracy", "loss", "step", "params"]
    assert {*keys, "mlflow_run_id", "adapter"} <= row.keys()
    assert (row["study"], row["overall"]) == ("small", True)
    assert row["mlflow_run_id"] in {run.info.run_id for run in here.runs()}
    assert (here.folder / row["adapter"] / "adapter_model.safetensors").is_file()


def test_run_names_the_export_only_if_the_best_trial_has_its_adapter(here: Home, tmp_path: Path) -> None:
    place = Home(shutil.copytree(here.folder, tmp_path / "copy"))
    (best,) = peftsweep.best(place.storage)
    words = ("run", "--study", "small.yaml", "--trials", "2")
    assert errors(place.call(*words))[-1] == "next: peftsweep best, or peftsweep export --study small DEST"
    shutil.rmtree(place.folder / f"artifacts/small/trial-000{best.trial}/adapter")
    done = place.call(*words)
    assert done.returncode == 0 and errors(done)[-1] == "next: peftsweep best", done.stderr


def test_status_counts_trials_and_time(here: Home) -> None:
    done, as_json = here.call_each([["status"], ["status", "--json"]])
    header, row, _, sums = (line.split() for line in done.stdout.splitlines())
    assert header == ["study", "complete", "pruned", "failed", "running", "macro-F1", "time"]
    assert row[:5] == ["small", "2", "0", "0", "0"] and done.stderr == ""
    assert sums == ["2", "of", "2", "trials", "done"]
    (shown,) = json.loads(as_json.stdout)
    assert (shown["complete"], f"{shown['best']:.3f}") == (2, row[5])


def test_environment_variables_set_the_storage_and_the_tracker(here: Home, tmp_path: Path) -> None:
    done = peftsweep_("best", "--json", cwd=tmp_path, PEFTSWEEP_STORAGE=here.storage)
    assert [row["study"] for row in json.loads(done.stdout)] == ["small"]
    nowhere = peftsweep_("ui", cwd=tmp_path, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/gone.db")
    assert (nowhere.returncode, nowhere.stderr.startswith(f"error: nothing is tracked in {tmp_path}/gone.db")) == (
        1,
        True,
    )


def test_commands_that_read_create_no_files_and_say_what_to_do(here: Home, tmp_path: Path) -> None:
    before = (here.folder / "mlflow.db").read_bytes()
    status, best, wrong = Home(tmp_path).call_each(
        [["status"], ["best", "--json"], ["best", "--storage", here.tracking_uri]]
    )
    assert list(tmp_path.iterdir()) == []
    assert status.stderr == "no studies in sqlite:///studies.db yet; to start one: peftsweep run --study demo\n"
    assert (status.returncode, best.returncode, best.stdout) == (0, 0, "[]\n")
    (line,) = errors(wrong)
    assert "MLflow's database" in line and "--storage" in line
    assert (here.folder / "mlflow.db").read_bytes() == before


def test_a_study_without_a_complete_trial_is_not_called_missing(here: Home, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    add_study(url, "early").ask()
    for words in (["best"], ["best", "--study", "early"]):
        done = peftsweep_(*words, "--storage", url, cwd=tmp_path)
        said = "no trial is complete yet; see peftsweep status\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, "", said)


def test_no_password_reaches_the_terminal(tmp_path: Path) -> None:
    url = "postgresql://me:s3/c@r?et@host/db"
    done = peftsweep_("best", "--storage", url, cwd=tmp_path)
    assert done.returncode == 1 and "postgresql://me:***@host/db" in done.stderr and "et@" not in done.stderr


def test_help_appears_in_a_second_without_the_heavy_libraries(tmp_path: Path) -> None:
    code = (
        "import sys; from peftsweep.cli import app; app(['run', '--help'], standalone_mode=False); print(*sys.modules)"
    )
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert time.perf_counter() - began < 5  # a second on an idle machine
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "optuna", "mlflow", "datasets", "peftsweep.sweep"}


@pytest.mark.parametrize("command", ["best", "status"])
def test_tables_of_studies_load_no_library_for_training_drawing_or_tracking(tmp_path: Path, command: str) -> None:
    add_study(f"sqlite:///{tmp_path}/studies.db", "one")
    code = f"import sys; from peftsweep.cli import app; app([{command!r}], standalone_mode=False); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    loaded = set(run.stdout.splitlines()[-1].split())
    assert "sqlalchemy" in loaded
    heavy = {"torch", "transformers", "peft", "datasets", "sklearn", "scipy", "pyarrow"}
    assert not loaded & (heavy | {"mlflow", "plotly", "jinja2", "matplotlib", "psycopg", "peftsweep.sweep"})


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert peftsweep_("--version", cwd=tmp_path).stdout == f"peftsweep {peftsweep.__version__}\n"


def test_the_exported_names() -> None:
    assert sorted(peftsweep.__all__) == ["__version__", "best", "retrain", "run", "status"]
    assert all(callable(getattr(peftsweep, name)) for name in ("best", "retrain", "run", "status"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = peftsweep.nothing


def test_an_unknown_study_is_one_line_with_the_nearest_name(tmp_path: Path) -> None:
    done = peftsweep_("run", "--study", "dmeo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = errors(done)
    assert line.startswith("error: no study 'dmeo'; did you mean demo?")


def test_all_mistakes_of_a_study_file_are_reported_before_anything_runs(tmp_path: Path) -> None:
    settings = ["--set", "train.epochz=3", "--set", "space.rank={low: 8, high: 4}"]
    done = peftsweep_("run", "--study", "demo", *settings, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean epochs?" in done.stderr
    assert "must be below high" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "--study", "demo", "--slots", "0"],
        ["run", "--study", "demo", "--slots", "many"],
        ["run", "--study", "demo", "--slots", "9" * 5000],
        ["run", "--study", "demo", "--slots", "²"],
        ["run", "--study", "demo", "--timeout", "soon"],
        ["run", "--study", "demo", "--ray-address", "nonsense"],
        ["run", "--study", "demo", "--trials", "0"],
        ["ui", "--port", "99999"],
        ["nothing"],
    ],
)
def test_bad_usage_exits_2_without_a_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.app(words)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "Usage: " in said and "9" * 100 not in said


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("30m", 1800), ("90s", 90), ("1h30m", 5400), ("1h02m03s", 3723), ("45", 45)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


def test_a_worker_gets_some_seconds_to_report() -> None:
    assert worker_timeout("10s") == 10
    with pytest.raises(typer.BadParameter, match=r"^expected at least 10s, .* got '0s'$"):
        worker_timeout("0s")


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1m", "1.5h", "30m1h", "soon", "9" * 400 + "h"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="1h30m"):
        duration(text)


def test_a_traceback_is_shown_only_on_request(tmp_path: Path) -> None:
    assert "Traceback" not in peftsweep_("run", "--study", "dmeo", cwd=tmp_path).stderr
    assert "Traceback" in peftsweep_("run", "--study", "dmeo", "--debug", cwd=tmp_path).stderr
    assert "Traceback" in peftsweep_("run", "--study", "dmeo", cwd=tmp_path, PEFTSWEEP_DEBUG="1").stderr


def test_a_library_that_cannot_be_loaded_is_reported_with_the_variable_that_may_be_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "some_library.py").write_text("import os\nint(os.environ['SOME_TIMEOUT'])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SOME_TIMEOUT", "abc")
    monkeypatch.setenv("OTHER_TIMEOUT", "10")
    with pytest.raises(ValueError, match="abc") as raised:
        importlib.import_module("some_library")
    assert error_report.report(raised.value, debug=False) == 1
    said = "error: some_library cannot be loaded: ValueError: invalid literal for int() with base 10: 'abc'; it may be "
    assert capsys.readouterr().err == f"{said}the variable SOME_TIMEOUT\n"
    (tmp_path / "other_library.py").write_text("raise ImportError('/root/abcd/lib.so: undefined symbol: abcd')\n")
    monkeypatch.setenv("HOME", "/root")
    monkeypatch.setenv("SOME_TIMEOUT", "abc")
    with pytest.raises(ImportError) as unloaded:
        importlib.import_module("other_library")
    assert error_report.report(unloaded.value, debug=False) == 1
    assert capsys.readouterr().err.endswith("; is it installed whole, and are its variables right?\n")
    with pytest.raises(ValueError, match="abc") as raised:
        int("abc")  # no import is involved
    error_report.report(raised.value, debug=False)
    assert "should not happen" in capsys.readouterr().err


def test_a_working_folder_that_was_removed_is_reported(tmp_path: Path) -> None:
    words = f'mkdir gone; cd gone; rmdir ../gone; PYTHONPATH={ROOT} "{sys.executable}" -m peftsweep predict x --text a'
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and errors(done) == [
        "error: the working folder does not exist (No such file or directory); change to another one with cd"
    ]


def test_libraries_log_only_errors(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores it afterwards
        monkeypatch.delenv(name)
    with warnings.catch_warnings():
        cli.quiet()
        try:
            warnings.warn("deprecated", FutureWarning, stacklevel=1)
            logging.getLogger("alembic").warning("context impl")
            logging.getLogger("alembic").error("disk full")
        finally:
            logging.disable(logging.NOTSET)
    assert [record.message for record in caplog.records] == ["disk full"]


def test_a_wheel_contains_the_studies(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    code = "import peftsweep.config as c; print(c.__file__, *c.available()); print(c.load('demo').search.trials)"
    env = os.environ | {"PYTHONPATH": str(site)}
    text = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True)
    place, *names = text.splitlines()[0].split()
    assert Path(place).is_relative_to(site)
    assert names == sorted(file.stem for file in (ROOT / "sweeps").glob("*.yaml"))


def test_a_run_says_at_once_what_takes_the_time(here: Home) -> None:
    said = here.call("run", "--study", str(here.study("told", search={"trials": 1}))).stderr
    assert said[9:].startswith(Stage.DATA)  # after the time of day
    places = [said.index(stage) for stage in Stage]
    assert places == sorted(places)


def test_the_time_of_the_whole_command_is_accounted_for(here: Home) -> None:
    began = time.monotonic()
    said = here.call("run", "--study", str(here.study("timed", search={"trials": 1}))).stderr
    took = time.monotonic() - began
    (line,) = (line for line in said.splitlines() if line.startswith("time: "))
    shares = [float(share) for share in re.findall(r"([\d.]+)%", line)]
    whole = float(re.findall(r"time: (\d+)s in this run · starting ", line)[0])
    assert min(shares) >= 0 and sum(shares) == pytest.approx(100) and 0.5 * took - 1 < whole < took + 1
