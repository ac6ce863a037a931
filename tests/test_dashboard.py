"""What does the page of `peftsweep compare` show, where is it kept, and what can go wrong?"""

from __future__ import annotations

import errno
import html
import json
import os
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from optuna.trial import TrialState

from peftsweep import comparison, dashboard, sweep
from peftsweep.dashboard import figures as across
from peftsweep.dashboard import formats, study_figures
from peftsweep.dashboard.figures import figures
from peftsweep.dashboard.page import top
from peftsweep.errors import StorageError, UsageError
from peftsweep.study import best_rows
from peftsweep.tracking import MlflowRuns, Tracker
from tests.made_studies import best_folder, fill, storage
from tests.stored import add_study, add_trial, retrained
from tests.studies import LABELS, Home, empty_mlflow, home
from tests.tiny import tiny_rows, write

DEAD = "http://127.0.0.1:9"
EVIL = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>&amp;\u2028'


class Elements(HTMLParser):
    """The elements of a page, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text += " ".join(data.split()) + " "

    def ids(self) -> list[str]:
        return [attrs["id"] for _, attrs in self.found if attrs.get("id")]  # type: ignore[misc]

    def plots(self) -> list[str]:
        return [attrs["data-plot"] for _, attrs in self.found if attrs.get("data-plot")]  # type: ignore[misc]


def drawn(url: str) -> str:
    return dashboard.page(comparison.compare(url).as_dict())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = storage(tmp_path_factory.mktemp("dashboard"))
    for seed in range(3):
        fill(url, f"study-{seed}", trials=20, rows=100, seed=seed, skill=0.7 + 0.2 * seed)
    return url


@pytest.fixture
def here(tmp_path: Path) -> Home:
    return home(tmp_path / "home")


# The page ---------------------------------------------------------------------------------------------------------


def test_the_page_has_its_sections_and_a_plot_for_everything(url: str) -> None:
    page = Elements(drawn(url))
    sections = {"leaderboard", "cost", "parameters", "classes", "significance", "studies"}
    assert sections <= set(page.ids()) and len(page.ids()) == len(set(page.ids()))
    across = ["cost", "parameters", "classes", "significance"]
    study = ["trials", "time", "curves", "parallel", "importance", *["slice"] * 5]
    assert page.plots() == across + 3 * study


def test_the_table_says_what_the_rows_say(url: str) -> None:
    text, found = Elements(drawn(url)).text, comparison.compare(url)
    for row in found.leaders:
        assert row.macro_f1 is not None and row.interval is not None
        assert f"{row.macro_f1:.3f}" in text and f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" in text
        assert f"{row.complete} / {row.pruned} / {row.failed}" in text
    for pair in found.groups[0].pairs:
        assert f"{pair.difference:+.3f}".replace("-", "−") in text


def test_the_page_loads_nothing_from_a_network(url: str) -> None:
    page = Elements(drawn(url))
    fetched = [
        value
        for tag, attrs in page.found
        for key, value in attrs.items()
        if key in ("src", "srcset", "data", "action", "poster") or (key == "href" and tag != "a")
    ]
    assert fetched == []
    assert all(str(attrs["href"]).startswith("#") for tag, attrs in page.found if tag == "a")
    (policy,) = [attrs["content"] for _, attrs in page.found if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and "default-src 'none'" in policy and "http" not in policy  # the browser enforces this


def test_every_plot_has_a_description_and_every_table_scrolls_by_keyboard(url: str) -> None:
    page = Elements(drawn(url))
    plots = [attrs for _, attrs in page.found if attrs.get("data-plot")]
    assert all(attrs["role"] == "img" and len(str(attrs["aria-label"])) > 15 for attrs in plots)
    boxes = [attrs for _, attrs in page.found if str(attrs.get("class", "")).startswith("scroll")]
    assert len(boxes) == sum(tag == "table" for tag, _ in page.found)
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in boxes)
    links = {str(attrs["href"])[1:] for tag, attrs in page.found if tag == "a"}
    assert links <= set(page.ids())


def embedded(page: str) -> dict[str, Any]:
    """The data that the page's script draws."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)  # type: ignore[no-any-return]


def filled(value: Any, columns: list[Any]) -> Any:
    """A figure of the page with its columns filled in, as the browser does it."""
    if isinstance(value, list):
        return [filled(each, columns) for each in value]
    if not isinstance(value, dict):
        return value
    return columns[value["column"]] if "column" in value else {k: filled(each, columns) for k, each in value.items()}


def test_the_page_has_a_figure_for_each_plot_and_every_column_once(url: str) -> None:
    rows = comparison.compare(url).as_dict()
    page = dashboard.page(rows)
    found = embedded(page)
    plots = [attrs for _, attrs in Elements(page).found if attrs.get("data-plot")]
    assert sorted(found["figures"]) == sorted(f"{plot['data-plot']} {plot['data-index']}" for plot in plots)
    texts = [json.dumps(column) for column in found["columns"]]
    assert len(texts) == len(set(texts))
    assert filled(found["figures"], found["columns"]) == json.loads(json.dumps(figures(rows)))
    assert set(re.findall(r"var\(--(\w+)\)", json.dumps(found))) <= set(re.findall(r"--(\w+):", page))


def test_columns_contain_only_plain_values(tmp_path: Path) -> None:
    """Nine methods have nine traces, each in a colour of the theme: a long list that is not a column."""
    url = storage(tmp_path)
    for seed in range(9):
        fill(url, f"study-{seed}", trials=9, rows=60, seed=seed)
    rows = comparison.compare(url).as_dict()
    for place, row in enumerate(rows["leaders"]):
        row["method"] = f"method {place}"
    found = embedded(dashboard.page(rows))
    assert [len(found["figures"][name]["data"]) for name in ("cost 0", "parameters 0")] == [
        10,
        10,
    ]  # one more is the front
    held = [each for column in found["columns"] for each in column]
    assert len(held) > 100 and not [each for each in held if isinstance(each, dict | list) or "var(--" in str(each)]
    assert filled(found["figures"], found["columns"]) == json.loads(json.dumps(figures(rows)))


def test_names_are_shown_as_text_even_if_they_are_html(tmp_path: Path) -> None:
    url = storage(tmp_path)
    plain = len(Elements(page_of(url, "plain")).found)
    url = storage(tmp_path / "evil")
    (tmp_path / "evil").mkdir()
    study = fill(url, "evil", trials=6, rows=60)
    config = study.user_attrs["config"]
    config["model"]["id"] = EVIL
    for key, value in {"config": config, "experiment": EVIL, "labels": [EVIL, *study.user_attrs["labels"][1:]]}.items():
        study.set_user_attr(key, value)
    rows = comparison.compare(url).as_dict()
    for each in (*rows["leaders"], *rows["histories"]):  # names that no study can have, and an unknown method
        each |= {name: EVIL for name in ("study", "method") if name in each}
    rows["groups"][0]["studies"] = rows["groups"][0]["cheapest"] = rows["groups"][0]["smallest"] = [EVIL]
    page = dashboard.page(rows)
    assert EVIL not in page and "<img" not in re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    elements = Elements(page)
    assert len(elements.found) == plain and "onerror" not in {key for _, attrs in elements.found for key in attrs}
    assert html.escape(EVIL, quote=False)[:20] in page


def page_of(url: str, name: str) -> str:
    fill(url, name, trials=6, rows=60)
    return drawn(url)


def test_studies_trained_on_different_rows_are_compared_on_the_same_validation_rows(tmp_path: Path) -> None:
    here = home(tmp_path)
    write(tmp_path / "fewer.csv", tiny_rows(LABELS, 30, 1, single="label"))
    here.run(here.study("all", search={"trials": 1}))
    here.run(here.study("fewer", search={"trials": 1}, data={"train": str(tmp_path / "fewer.csv")}))
    found = comparison.compare(here.storage)
    (group,) = found.groups
    assert len(group.pairs) == 1 and group.untested == {} and set(group.studies) == {"all", "fewer"}
    assert group.data == sorted({leader.data for leader in found.leaders}) and len(group.data) == 2
    assert [row.overall for row in best_rows.best(here.storage)].count(True) == 1
    page = Elements(dashboard.page(found.as_dict())).text
    assert "the same validation rows, but were trained, or are tested, on different ones" in page
    assert f"Best on {group.data[0]} and {group.data[1]}" in page


def test_a_single_study_and_studies_without_a_complete_trial_are_drawn(tmp_path: Path) -> None:
    url = storage(tmp_path)
    study = add_study(url, "new")
    page = Elements(drawn(url))
    assert "No trial is complete yet" in page.text and "No trial has begun yet" in page.text and page.plots() == []
    known = fill(storage(tmp_path), "one", trials=3, rows=50)
    for key, value in known.user_attrs.items():
        study.set_user_attr(key, value)
    study.ask()
    page = Elements(drawn(url))
    assert "The only study with a complete trial on these rows" in page.text and "1 running" in page.text
    complete = sum(trial.state.name == "COMPLETE" for trial in known.trials)
    assert f"complete trials so far: {complete}; " in page.text


def test_studies_of_failed_trials_share_a_line_and_have_no_empty_plots(tmp_path: Path) -> None:
    for number in range(6):
        add_trial(add_study(storage(tmp_path), f"failed-{number}"), None, TrialState.FAIL)
    page = Elements(drawn(storage(tmp_path)))
    assert page.plots() == [] and page.text.count("No trial has a score") == 6
    names = ", ".join(f"failed-{number}" for number in range(5))
    assert f"{names} and 1 more: no trial is complete yet." in page.text


def test_the_page_explains_the_limits_of_its_numbers(tmp_path: Path) -> None:
    url = storage(tmp_path)
    studies = [fill(url, f"study-{i}", trials=24, rows=8, seed=i, skill=1 + i) for i in range(3)]
    studies[2].set_user_attr("test", {"trial": 12, "scores": {"macro_f1": 0.8123}})
    studies[1].set_user_attr("retrained", [retrained(12, 0.7)])
    studies[0].set_user_attr("described", {"device": "cpu"})
    (best_folder(url, "study-2") / "predictions.safetensors").unlink()
    text = Elements(drawn(url)).text
    assert "On the test split: macro-F1 0.812" in text and "Macro-F1, test split" in text
    assert "Chosen on these rows as the best of 24 trials, so probably a little too high." in text
    assert "Seconds of GPU and of CPU are not the same seconds" in text
    assert "Difference from the best of those tested, study-1" in text
    assert "classes have fewer than three validation rows" in text
    assert "complete trials, this is little more than noise" in text
    assert "Intervals of tuned scores are a tenth wider" in text


def test_a_study_that_optimises_tuned_scores_has_their_interval_at_the_top(tmp_path: Path) -> None:
    url = storage(tmp_path)
    fill(url, "one", trials=3, rows=50, objective="macro_f1_tuned")
    (row,) = comparison.compare(url).leaders
    assert row.interval_tuned is not None and row.interval_tuned != row.interval
    low, high = (f"{bound:.3f}" for bound in row.interval_tuned)
    assert f"tuned macro-F1 · 95 % interval {low} to {high}" in Elements(drawn(url)).text


def test_numbers_are_rounded_before_their_unit_is_chosen() -> None:
    counts = [formats.count(value) for value in (999, 1000, 999_499, 999_999, 1_234_567)]
    assert counts == ["999", "1 k", "999 k", "1 M", "1.23 M"]
    assert (formats.p_is(0.0001), formats.p_is(0.0123)) == ("p < 0.001", "p = 0.012")


# Colours as people with one kind of colour blindness see them: Machado, Oliveira and Fernandes, "A
# physiologically-based model for simulation of color vision deficiency" (IEEE TVCG 15, 2009), severity 1.0, linear RGB
SEEN = {
    "all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour: str, seen: str) -> np.ndarray:
    """CIELAB (D65) of a colour `#rrggbb`, as somebody with this vision sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = XYZ @ np.clip(np.array(SEEN[seen]) @ linear, 0, 1) / (0.95047, 1, 1.08883)
    fx, fy, fz = (np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_colours_of_marks_can_be_distinguished(url: str, mode: str, seen: str) -> None:
    style = drawn(url)
    block = next(part for part in style.split("--page:")[1:] if f"color-scheme: {mode};" in part.split("}")[0])
    names = ("blue", "orange", "green", "red", "pink", "sky", "yellow", "grey")
    colours = [re.findall(rf"--{name}: (#[0-9a-f]{{6}});", block)[0] for name in names]
    for one, other in combinations(colours, 2):
        assert np.linalg.norm(lab(one, seen) - lab(other, seen)) >= 12, (one, other)


def test_missing_parts_are_reported(tmp_path: Path) -> None:
    url = storage(tmp_path)
    for seed, name in enumerate(("one", "two")):
        fill(url, name, trials=6, rows=60, seed=seed)
    (best_folder(url, "two") / "predictions.safetensors").unlink()
    text = Elements(drawn(url)).text
    assert "two : the predictions of its best trial (3) are gone or cannot be read" in text
    assert "There are no two studies on these rows whose predictions can be compared" in text


def test_an_ordinary_page_is_below_6_mb_and_a_thousand_trials_add_half_a_mb(tmp_path: Path) -> None:
    url = storage(tmp_path)
    fill(url, "one", trials=100, rows=500)
    one = len(drawn(url).encode())
    fill(url, "two", trials=100, rows=500, seed=1)
    two = len(drawn(url).encode())
    assert one < 6_000_000
    assert 10 * (two - one) < 500_000


# The command ------------------------------------------------------------------------------------------------------


def compared_runs(place: Home) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=place.tracking_uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [run for run in runs if run.data.tags.get("peftsweep.kind") == "comparison"]


def artifact(place: Home, run: Any) -> str:
    client = mlflow.MlflowClient(tracking_uri=place.tracking_uri)
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["comparison.html"]
    return Path(client.download_artifacts(run.info.run_id, "comparison.html")).read_text(encoding="utf-8")


def test_run_draws_the_page_and_compare_replaces_it(here: Home) -> None:
    here.run(here.study(), trials=2)
    page = here.folder / "artifacts" / "comparison.html"
    (run,) = compared_runs(here)
    assert artifact(here, run) == page.read_text(encoding="utf-8") and run.info.status == "FINISHED"
    assert "small" in Elements(page.read_text(encoding="utf-8")).text
    here.run(here.study("other", method="ia3", space={"learning_rate": {"low": 1e-3, "high": 1e-2}}), trials=2)
    found = sweep.compare(storage=here.storage, tracking_uri=here.tracking_uri)
    assert found.page == page and {row.study for row in found.rows.leaders} == {"small", "other"}
    (again,) = compared_runs(here)
    assert again.info.run_id == run.info.run_id and "other" in Elements(artifact(here, again)).text
    assert [file.name for file in (here.folder / "artifacts").iterdir() if file.is_file()] == ["comparison.html"]


def test_a_failed_drawing_and_a_dead_tracker_do_not_harm_a_run(here: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    assert here.run(here.study(), trials=1, tracking_uri=DEAD).counts == {"complete": 1}
    page = here.folder / "artifacts" / "comparison.html"
    assert page.is_file()
    page.unlink()

    def broken(*given: Any) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr("plotly.offline.get_plotlyjs", broken)
    assert here.run(here.study(), trials=2).counts == {"complete": 2}
    assert not page.exists() and compared_runs(here) == []


def test_a_dead_tracker_gives_a_note_and_the_page_is_written(url: str, tmp_path: Path) -> None:
    notes: list[str] = []
    page = tmp_path / "page.html"
    found = sweep.compare(storage=url, tracking_uri=DEAD, output=page, note=notes.append)
    assert found.page == page and "study-1" in page.read_text(encoding="utf-8")
    assert any("does not answer" in note for note in notes)


def test_an_output_that_cannot_be_written_is_reported_before_anything_is_drawn(url: str, tmp_path: Path) -> None:
    for output, said in (
        (tmp_path, "this is a folder; give a file"),
        (tmp_path / "no" / "page.html", "does not exist; create it"),
    ):
        with pytest.raises(UsageError, match=said):
            sweep.compare(storage=url, tracking_uri=DEAD, output=output)
    with pytest.raises(UsageError, match="did you mean study-1"):
        sweep.compare(storage=url, tracking_uri=DEAD, studies=["study1"])
    with pytest.raises(UsageError, match="are one file"):
        sweep.compare(storage=url, tracking_uri=url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_page_is_left_unchanged(url: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    for content in (b"", b"SQLite format 3\0", b"<!doctype html><title>mine</title>"):
        page.write_bytes(content)
        with pytest.raises(UsageError, match="is not a page of peftsweep"):
            sweep.compare(storage=url, tracking_uri=DEAD, output=page)
        assert page.read_bytes() == content
    page.write_text(drawn(url))
    sweep.compare(storage=url, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", output=page, studies=["study-1"])
    assert "This page shows only study-1" in Elements(page.read_text(encoding="utf-8")).text


def test_a_dead_tracker_is_waited_for_once_for_all_datasets(tmp_path: Path) -> None:
    url, notes = storage(tmp_path), list[str]()
    for name in ("one", "two", "three"):
        study = fill(url, name, trials=3, rows=50)
        study.set_user_attr("fingerprint", name)
        study.set_user_attr("experiment", name)
    sweep.compare(storage=url, tracking_uri=DEAD, note=notes.append)
    assert len([note for note in notes if "not written" in note]) == 1 and "3 updates" in " ".join(notes)


def test_each_experiment_gets_the_page_and_a_selection_of_studies_gets_its_own(tmp_path: Path) -> None:
    url, uri = storage(tmp_path), f"sqlite:///{tmp_path}/mlflow.db"
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow())
    for name in ("one", "two"):
        study = fill(url, name, trials=3, rows=50)
        study.set_user_attr("fingerprint", name)
        study.set_user_attr("experiment", name)
    whole = sweep.compare(storage=url, tracking_uri=uri).page
    text = whole.read_text()
    some = sweep.compare(storage=url, tracking_uri=uri, studies=["one"]).page
    assert (whole.name, some.name) == ("comparison.html", "selection.html") and whole.read_text() == text
    client, found = mlflow.MlflowClient(tracking_uri=uri), {}
    for experiment in client.search_experiments(filter_string="name != 'Default'"):
        (run,) = client.search_runs([experiment.experiment_id])
        found[experiment.name] = {file.path: file.file_size for file in client.list_artifacts(run.info.run_id)}
    size = len(text.encode())
    assert found == {
        "one": {"comparison.html": size, "selection.html": some.stat().st_size},
        "two": {"comparison.html": size},
    }
    tracker = Tracker(MlflowRuns(uri), note=lambda _: None)
    assert all(tracker.has_page(name, whole) for name in ("one", "two"))
    whole.touch()  # as if drawn again but not uploaded; uploading a selection must not hide that
    sweep.compare(storage=url, tracking_uri=uri, studies=["one"])
    assert not tracker.has_page("one", whole)


def test_the_best_trials_come_first_and_complete_ones_before_others() -> None:
    history = {"values": [0.1, 0.9, None, 0.3, 0.2], "states": ["complete", "pruned", "failed", "complete", "complete"]}
    assert top(history) == [3, 4, 0, 1]


def test_a_full_disk_leaves_the_page_that_was_there(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    page.write_text(drawn(url))
    write = Path.write_text

    def full(to: Path, text: str, **options: Any) -> int:
        write(to, text[:100], **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="the disk is full"):
        sweep.compare(storage=url, tracking_uri=DEAD, output=page)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"] and page.read_text().endswith("</html>")


def test_the_command_prints_the_path_or_the_rows(here: Home) -> None:
    here.run(here.study(), trials=2)
    place, rows, nowhere, nothing = here.call_each(
        [
            ["compare", "-o", "here.html"],
            ["compare", "--json", "--study", "small"],
            ["compare", "-o", "no/here.html"],
            ["compare", "--storage", "sqlite:///none.db"],
        ]
    )
    assert (place.returncode, place.stdout.strip()) == (0, str(here.folder / "here.html"))
    found = json.loads(rows.stdout)
    assert rows.returncode == 0 and found["leaders"][0]["study"] == "small" and Path(found["page"]).name
    assert (nowhere.returncode, nothing.returncode) == (2, 1)
    assert "does not exist" in nowhere.stderr and "none.db: " in nothing.stderr
    assert "Traceback" not in nowhere.stderr + nothing.stderr


# The plots' traces --------------------------------------------------------------------------------------------------

LEADERS: list[dict[str, Any]] = [
    {"study": "a", "method": "lora", "model": "m", "macro_f1": 0.8, "interval": (0.7, 0.9), "seconds": 10.0},
    {"study": "b", "method": "ia3", "model": "<m>", "macro_f1": 0.7, "interval": None, "seconds": 200.0},
    {"study": "c" * 40, "method": "lora", "model": None, "macro_f1": 0.6, "interval": (0.5, 0.65), "seconds": None},
]
GROUP: dict[str, Any] = {"score": "macro_f1", "studies": [row["study"] for row in LEADERS], "cheapest": ["a"]}


def test_a_cost_plot_has_a_trace_for_each_method_with_intervals_and_the_front() -> None:
    figure = across.cost(GROUP, {row["study"]: row for row in LEADERS}, ["ia3", "lora"])
    front, ia3, lora = figure["data"]
    assert (front["x"], front["y"], front["mode"]) == ([10.0], [0.8], "lines")
    assert (lora["name"], lora["x"], lora["y"]) == ("lora", [10.0, None], [0.8, 0.6])
    assert lora["error_y"]["array"] == pytest.approx([0.1, 0.05])
    assert lora["error_y"]["arrayminus"] == pytest.approx([0.1, 0.1])
    assert "error_y" not in ia3 and ia3["customdata"] == [["b", "&lt;m&gt;"]]
    assert lora["marker"]["opacity"] == [1, 0.65] and lora["marker"]["symbol"] != ia3["marker"]["symbol"]
    assert figure["layout"]["xaxis"] == {"title": {"text": "seconds (log)"}, "type": "log", "dtick": 1}
    assert ia3["textposition"] == ["top left"] and lora["textposition"] == ["top right", "top right"]
    assert figure["narrow"]["data.2.text"] == ["a", "ccccccc…cccccccc"]


def test_studies_of_similar_cost_have_a_linear_axis_from_zero() -> None:
    leaders = {row["study"]: row | {"seconds": 10.0} for row in LEADERS}
    axis = across.cost(GROUP, leaders, ["lora"])["layout"]["xaxis"]
    assert axis == {"title": {"text": "seconds"}, "type": "linear", "rangemode": "tozero"}


def test_each_class_is_a_cell_with_its_f1_and_the_scale_ends_at_tenths() -> None:
    figure = across.classes({"per_class": {"a": [0.55, None], "b": [0.91, 0.7]}, "labels": ["<x>", "y"]})
    (trace,) = figure["data"]
    assert (trace["z"], trace["text"]) == ([[0.55, None], [0.91, 0.7]], [["0.55", ""], ["0.91", "0.70"]])
    assert (trace["zmin"], trace["zmax"], trace["texttemplate"]) == (0.5, 1.0, "%{text}")
    assert figure["layout"]["xaxis"]["ticktext"] == ["&lt;x&gt;", "y"]
    assert figure["layout"]["yaxis"]["autorange"] == "reversed"


def test_differences_are_measured_from_the_best_and_significant_ones_are_a_trace_of_their_own() -> None:
    pairs = [
        {"first": "a", "second": "b", "difference": 0.2, "low": 0.1, "high": 0.3, "p_holm": 0.01},
        {"first": "a", "second": "c", "difference": 0.1, "low": -0.1, "high": 0.3, "p_holm": 0.2},
        {"first": "b", "second": "c", "difference": 0.1, "low": -0.1, "high": 0.3, "p_holm": 0.3},
    ]
    figure = across.significance({"pairs": pairs, "score": "macro_f1"})
    different, same = figure["data"]
    assert (different["x"], different["y"], same["x"], same["y"]) == ([-0.2], [0], [-0.1], [1])
    assert different["error_x"]["array"] == pytest.approx([0.1]) and same["error_x"]["arrayminus"] == pytest.approx(
        [0.2]
    )
    assert different["customdata"] == [["b", "−0.200", "−0.300", "−0.100", 0.01]]
    assert different["name"] == "different at 5 %" and figure["layout"]["yaxis"]["ticktext"] == ["b", "c"]


RATE = {"name": "learning_rate", "scale": "log", "low": 1e-5, "high": 1e-2, "choices": [], "values": [1e-3, 1e-4, None]}
CHOICE = {
    "name": "scheduler",
    "scale": "choice",
    "low": 0.0,
    "high": 1.0,
    "choices": ["cosine", "a_b"],
    "values": [0, 1, 1],
}
STUDY: dict[str, Any] = {
    "objective": "macro_f1",
    "numbers": [0, 1, 2],
    "states": ["complete", "pruned", "running"],
    "values": [0.7, 0.5, None],
    "ended": [360.0, 720.0, None],
    "ladders": [[0.5, 1.0], [0.5]],
    "ladder": [0, 1, 1],
    "curves": [[0.6, 0.7], [0.5], []],
    "best_by_trial": [(0, 0.7), (2, 0.7)],
    "best_by_time": [(360.0, 0.7), (720.0, 0.7)],
    "axes": [RATE, CHOICE],
    "importance": {"learning_rate": 0.9, "scheduler": 0.1},
}


def test_trials_are_marked_by_state_below_the_best_so_far() -> None:
    complete, pruned, best = study_figures.trials(STUDY)["data"]
    assert (complete["name"], complete["x"], complete["y"], complete["customdata"]) == ("complete", [0], [0.7], [0])
    assert (pruned["name"], pruned["x"], pruned["y"]) == ("pruned", [1], [0.5])
    assert (best["x"], best["y"], best["line"]["shape"]) == ([0, 2], [0.7, 0.7], "hv")


def test_times_are_in_suitable_units() -> None:
    figure = study_figures.time(STUDY)
    assert [trace["x"] for trace in figure["data"]] == [[6.0], [12.0], [6.0, 12.0]]
    assert figure["layout"]["xaxis"]["title"]["text"] == "minutes in which trials ran"


def test_curves_have_one_trace_for_each_state_and_one_for_the_best() -> None:
    pruned, best = study_figures.curves(STUDY)["data"]
    parts = [[0.5, 1.0, None], [0.5, None]]
    assert pruned["x"] == {"join": parts, "order": [1]} and pruned["y"] == [0.5, None]
    assert best["x"] == {"join": parts, "order": [0]} and best["y"] == [0.6, 0.7, None]
    assert best["customdata"] == {"repeat": [0], "times": [3]} and best["name"] == "best"


def test_parallel_axes_show_the_trials_with_all_hyperparameters() -> None:
    (trace,) = study_figures.parallel(STUDY)["data"]
    rate, choice, value = trace["dimensions"]
    assert (rate["range"], rate["values"], rate["ticktext"]) == ([-5, -2], [-3, -4], ["1e-5", "1e-4", "0.001", "0.01"])
    assert (choice["values"], choice["ticktext"]) == ([0, 1], ["cosine", "a_b"])
    assert value == {"label": "macro-F1", "values": [0.7, 0.5]} and trace["line"]["color"] == [0.7, 0.5]


def test_importance_has_the_highest_share_on_top() -> None:
    figure = study_figures.importance(STUDY)
    assert figure["data"][0]["x"] == [0.1, 0.9] and figure["data"][0]["text"] == ["0.10", "0.90"]
    assert figure["layout"]["yaxis"]["ticktext"] == ["scheduler", "learning_rate"]


def test_a_slice_spreads_the_marks_of_a_choice_and_keeps_those_of_a_number_in_place() -> None:
    rate, choice = (study_figures.slice_of(STUDY, axis) for axis in (RATE, CHOICE))
    assert [trace["x"] for trace in rate["data"]] == [[1e-3], [1e-4]] and rate["layout"]["xaxis"]["type"] == "log"
    assert rate["layout"]["xaxis"]["range"] == pytest.approx((-5.18, -1.82))
    (first,), (second,) = (trace["x"] for trace in choice["data"])
    assert abs(first) < 0.18 and abs(second - 1) < 0.18
    assert choice["layout"]["xaxis"]["ticktext"] == ["cosine", "a_<br>b"]


def test_a_study_without_a_score_has_no_plots() -> None:
    assert list(study_figures.figures(STUDY | {"values": [None] * 3})) == []
