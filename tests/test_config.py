"""What does a study file accept, and how are its mistakes reported?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from peftsweep.config import StudyConfig, TrainConfig, available, differences, find, load
from peftsweep.config.yaml_lines import parse, parse_value
from peftsweep.errors import StudyFileError, UsageError

STUDY = """\
model: {id: some/base, revision: abc}
method: lora
data:
  source: hub://owner/tweets
  subset: english
  split: {train: 100, validation: 0.2}
  text: Tweet
  labels: [joy, anger]
train: {epochs: 2, batch_size: 8}
space:
  learning_rate: {low: 1e-5, high: 2e-3, log: true}
  rank: {low: 4, high: 64, log2: true}
  scheduler: [linear, cosine]
search: {trials: 12}
"""


def write(folder: Path, text: str = STUDY, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def complaints(folder: Path, *changes: tuple[str, str], overrides: Any = ()) -> list[str]:
    """The lines of the error, without the file's name, after pieces of the study's text were replaced."""
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = write(folder, text)
    with pytest.raises(StudyFileError) as error:
        load(path, overrides)
    return [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()]


def test_a_study_is_read_with_its_name_path_and_defaults(tmp_path: Path) -> None:
    study = load(write(tmp_path))
    assert (study.name, study.path) == ("mine", tmp_path / "mine.yaml")
    assert study.train == TrainConfig(epochs=2, batch_size=8)
    assert study.space["learning_rate"].low == 1e-5  # YAML 1.1 would read a string here
    assert study.space["scheduler"] == ("linear", "cosine")
    assert study.search.pruner is not None and study.search.pruner.reduction == 3


def test_all_mistakes_are_reported_at_once_by_key_and_line(tmp_path: Path) -> None:
    lines = complaints(
        tmp_path,
        ("revision: abc", "revison: abc"),
        ("  text: Tweet\n", ""),
        ("batch_size: 8", "batch_size: no"),
        ("learning_rate: {low: 1e-5", "lerning_rate: {low: 1e-5"),
        ("trials: 12", "trials: 0"),
    )
    third = lines.pop(2)
    assert third.startswith("8: train.batch_size: ") and third.endswith(", got 'no'")
    assert lines == [
        "1: model.revison: unknown key; did you mean revision?",
        "3: data.text: missing",
        "10: space.lerning_rate: unknown key; did you mean learning_rate?",
        "13: search.trials: expected at least 1, got 0",
    ]


def test_without_a_pruner_trials_may_be_evaluated_at_different_steps(tmp_path: Path) -> None:
    study = load(write(tmp_path), {"space.evals_per_epoch": [1, 2], "search.pruner": None})
    assert study.space["evals_per_epoch"] == (1, 2)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("epochs: 2", "epochs: true", "9: train.epochs: expected a whole number, got True"),
        ("epochs: 2", "epochs: '2'", "9: train.epochs: expected a whole number, got '2'"),
        ("epochs: 2", "epochs:", "9: train.epochs: expected a whole number, got nothing"),
        ("epochs: 2", "lr: 1e-3", "9: train.lr: unknown key; did you mean learning_rate?"),
        ("epochs: 2", "trials: 2", "9: train.trials: unknown key; it belongs under search"),
        ("epochs: 2", "warmup: 1", "9: train.warmup: expected less than 1, got 1"),
        ("epochs: 2", "max_grad_norm: 1e100", "9: train.max_grad_norm: expected a number up to 3.4e+38, got 1e+100"),
        (
            "rank: {low: 4, high: 64, log2: true}",
            "alpha: [8.0, 1e39]",
            "12: space.alpha[1]: expected a number up to 3.4e",
        ),
        (
            "epochs: 2",
            f"target_modules: [{'q' * 10_001}]",
            "9: train.target_modules: expected at most 10,000 characters",
        ),
        ("epochs: 2", "learning_rate: .nan", "9: train.learning_rate: expected a finite number, got nan"),
        ("{epochs: 2, batch_size: 8}", "5", "9: train: expected keys and values, got 5"),
        ("method: lora", "method: qlorra", "2: method: expected 'lora', 'qlora' or 'ia3' (did you mean qlora?)"),
        ("method: lora", "", "1: method: missing"),
        ("method: lora", "method: lora\nname: x", "3: name: unknown key; a study is named after its file"),
        ("method: lora", "method: ia3", "12: space.rank: ia3 has no rank"),
        (
            "scheduler: [linear, cosine]",
            "evals_per_epoch: [1, 2]",
            "13: space.evals_per_epoch: trials at the same rung would",
        ),
        ("joy, anger", "joy, joy", "8: data.labels[1]: joy is named twice"),
        ("joy, anger", "", "8: data.labels: name the label column"),
        ("joy, anger", "joy, Tweet", "8: data.labels[1]: Tweet is the text column"),
        ("[joy, anger]", "5", "8: data.labels: expected text or a list, got 5"),
        ("source: hub://owner/tweets", "max_length: 5", "3: data: no source: give `source`, or `train`"),
        ("hub://owner/tweets", "tweets.csv", "5: data.subset: only a hub dataset"),
        ("  text", "  train: a.csv\n  text", "7: data.train: give either `source`, or files"),
        ("validation: 0.2", "validation: 1.5", "6: data.split.validation: expected a number of rows, or a fraction"),
        ("train: 100, validation: 0.2", "test: 0.5, validation: 0.5", "6: data.split: the fractions add up to 1;"),
        ("  text", "  filter: {a: {}}\n  text", "7: data.filter.a: keeps every row"),
        ("  text", "  filter: {a: {min: 2, max: 1}}\n  text", "7: data.filter.a.min: min must not be above max"),
        ("low: 1e-5, high: 2e-3", "low: 2e-3, high: 1e-5", "11: space.learning_rate.low: must be below high"),
        ("low: 1e-5", "low: 0", "11: space.learning_rate.low: a log scale must start above 0, got 0"),
        ("log: true", "log: true, step: 1e-5", "11: space.learning_rate: give only one of log and step"),
        ("low: 1e-5", "low: -1", "11: space.learning_rate.low: "),
        ("high: 64", "high: 60", "12: space.rank.high: log2 needs powers of two, got 60"),
        ("high: 64, log2: true", "high: 64, step: 7", "12: space.rank.step: must divide high - low"),
        ("high: 64, log2: true", "high: 64, step: -4", "12: space.rank.step: must be above 0, got -4"),
        ("high: 64, log2: true", "high: 4e9, step: 1", "12: space.rank.step: is too small, got low=4"),
        ("high: 64, log2: true", "high: 64.5", "12: space.rank.high: expected a whole number, got 64.5"),
        ("high: 64, log2: true", "hihg: 64", "12: space.rank.high: missing"),
        ("{low: 4, high: 64, log2: true}", "16", "12: space.rank: expected {low: …, high: …} or a list"),
        ("{low: 4, high: 64, log2: true}", "[]", "12: space.rank: expected at least one entry"),
        ("{low: 4, high: 64, log2: true}", "[4, 4]", "12: space.rank[1]: 4 is listed twice"),
        ("rank: {low: 4, high: 64, log2: true}", "dropout: {low: 0, high: 1}", "12: space.dropout.high: expected less"),
        ("rank: {low: 4, high: 64, log2: true}", "seed: [1, 2]", "12: space.seed: each trial already has its own"),
        ("rank: {low: 4, high: 64, log2: true}", "epochs: [1, 2]", "12: space.epochs: is also given under train"),
        ("[linear, cosine]", "[linear, cosin]", "13: space.scheduler[1]: expected 'linear', 'cosine'"),
        ("[linear, cosine]", "{low: 1, high: 2}", "13: space.scheduler: takes no numbers"),
        ("trials: 12", "sampler: grid", "11: space.learning_rate: a grid needs step"),
        ("trials: 12", "trials: 12, trials: 13", "14: search.trials: given twice, again in line 14"),
    ],
)
def test_each_mistake_has_its_own_message(tmp_path: Path, old: str, new: str, line: str) -> None:
    found = complaints(tmp_path, (old, new))
    assert [each for each in found if each.startswith(line)], found


def test_one_column_of_classes_has_no_thresholds_to_tune(tmp_path: Path) -> None:
    for labels in ("mood", "[mood]"):
        found = complaints(tmp_path, ("[joy, anger]", labels), ("trials: 12", "objective: macro_f1_tuned"))
        assert [
            line for line in found if line.startswith("14: search.objective: only multi-label data has thresholds")
        ], found


def test_one_broken_section_does_not_hide_the_mistakes_of_others(tmp_path: Path) -> None:
    lines = complaints(
        tmp_path, ("{id: some/base, revision: abc}", "[1]"), ("high: 64", "high: 1"), ("[linear, ", "[1, ")
    )
    assert [line.split(":")[0] for line in lines] == ["1", "12", "13"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {id: x\nmethod: lora", ":2:7: broken YAML: expected ',' or '}', but got ':'"),
        ("model:\n\t- x", ":2:1: broken YAML: found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2", ":2:1: broken YAML: but found another document"),
        ("a: &x [*x]", ":1:4: broken YAML: an alias that contains itself"),
        ("a: !!python/object:os.system x", ":1:4: broken YAML: could not determine a constructor"),
        ("a: !!int x", ":1:4: broken YAML: invalid literal"),
        ("a: 99999999999999999999", ":1:4: broken YAML: a whole number of more than 64 bits"),
        ("a: b\nc: \x01", ":2:4: broken YAML: special characters are not allowed"),
        ("? [a]\n: b", ":1:3: broken YAML: a key must be a word"),
        ("a: !!bool maybe", ":1:4: broken YAML: 'maybe' is no bool"),
        ("a: b\nc: !!timestamp x", ":2:4: broken YAML: 'x' is no timestamp"),
        ('a: "\\UFFFFFFFF"', ":1:7: broken YAML: Python int too large"),
        ("", ":1: expected the keys model, method, data"),
        ("- model", ":1: expected the keys model, method, data"),
    ],
)
def test_broken_yaml_is_reported_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(StudyFileError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}{message}")


def aliases(first: str, then: str, layers: int) -> str:
    """Values that are each made of the one before, for which `*` stands in `then`."""
    lines = [f"a0: &a0 {first}"] + [f"a{i}: &a{i} {then.replace('*', f'*a{i - 1}')}" for i in range(1, layers)]
    return "{" + ", ".join(lines) + "}"


TOO_LARGE = {
    "aliases": (aliases("[x, x, x, x, x]", "[*, *, *, *, *]", 9), "more than 10,000 values, each alias counted as"),
    "aliases of keys": (aliases("{x: 1, y: 2}", "{x: *, y: *}", 20), "more than 10,000 values"),
    "aliases of aliases": (aliases("[x]", "[*]", 50), "nested too deeply"),
    "values": ("[" + "x," * 10_001 + "]", "more than 10,000 values"),
    "characters": ("x" * 300_000, "more than 262,144 characters: no study is so long"),
    "levels": ("[" * 50 + "]" * 50, "nested too deeply"),
    "levels without end": ("{b: " * 3000, "nested too deeply"),
    "digits": ("1" * 5000, "a whole number"),
    "a tag": ("!" + "x" * 5000 + " 1", "could not determine a constructor for the tag"),
}


@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_value_too_large_for_a_study_is_one_short_line_at_once(tmp_path: Path, kind: str) -> None:
    value, message = TOO_LARGE[kind]
    began = time.process_time()
    with pytest.raises(StudyFileError, match=rf"^[^\n]*mine\.yaml:1[:\d]*: broken YAML: {message}[^\n]*$"):
        load(write(tmp_path, f"a: {value}"))
    with pytest.raises(StudyFileError, match=rf"^--set data\.text: [^\n]* YAML value \({message}") as error:
        load(write(tmp_path), [f"data.text={value}"])
    assert len(str(error.value)) < 500
    assert time.process_time() - began < 4


def test_values_from_python_have_the_same_limits(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value, message in ((endless, "nested too deeply"), (10**5000, "64 bits")):
        with pytest.raises(StudyFileError, match=f"^overrides: data.text: .*{message}$"):
            load(write(tmp_path), {"data.text": value})


def test_messages_are_short_and_contain_no_terminal_commands(tmp_path: Path) -> None:
    long = "x" * 100_000
    for change in (f"lora\n{long}: 1", f"[{long}]", '"\\e[2Jlora"', f'lora\n"\\e[2J": {long}', f"lora\ntrain: {long}"):
        with pytest.raises(StudyFileError) as error:
            load(write(tmp_path, STUDY.replace("lora", change)))
        assert len(str(error.value)) < 1000 and "\x1b" not in str(error.value), change
    for name in (long, "\x1b[2J", f"{long}/x.yaml", "~nobody-of-this-name/x.yaml", "\0.yaml"):
        with pytest.raises(UsageError, match=r"^no study ") as failure:
            load(name)
        assert len(str(failure.value)) < 1000 and "\x1b" not in str(failure.value)


def test_a_file_s_name_may_look_like_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody.yaml").write_text(STUDY)
    assert find("./~nobody.yaml") == find("~nobody.yaml") == Path("~nobody.yaml")


def test_at_most_a_hundred_mistakes_are_listed(tmp_path: Path) -> None:
    lines = complaints(tmp_path, ("rank: {low: 4, high: 64, log2: true}", "rank: [" + "-1, " * 5000 + "]"))
    assert len(lines) == 101 and lines[-1].endswith("and 4,900 more mistakes")


def test_a_surrogate_pair_is_read_and_half_of_one_is_reported(tmp_path: Path) -> None:
    assert parse_value('"\\uD83D\\uDE00"') == "😀"
    with pytest.raises(StudyFileError, match=r":7:9: broken YAML: half a character"):
        load(write(tmp_path, STUDY.replace("Tweet", '"\\uD83D"')))


def test_the_known_keys_are_listed_once(tmp_path: Path) -> None:
    lines = complaints(
        tmp_path,
        ("{epochs: 2, batch_size: 8}", "{qqq: 1, www: 2, trials: 3, epoch: 4}"),
        ("rank: {low: 4, high: 64, log2: true}", "vvv: {}\n  uuu: 1\n  dropout: {low: 0, high: 0.1, zzz: 1, xxx: 1}"),
    )
    train = [line for line in lines if "train." in line]
    assert [line.partition("key")[2].partition(":")[0] for line in train] == [
        "; known here",
        "",
        "; it belongs under search",
        "; did you mean epochs?",
    ]
    assert sum(line.endswith("unknown key; known here: low, high, log, log2, step") for line in lines) == 1
    assert sum("weight_decay" in line for line in lines) == 2  # once among train's keys, once among space's


def test_endless_nesting_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"^[^\n]*:1:\d+: broken YAML: nested too deeply$"):
        load(write(tmp_path, "a: " + "{b: " * 3000))


@pytest.mark.parametrize("encoding", ["hex", "rot13", "undefined", "utf-9", '"a\\0b"'])
def test_a_codec_that_encodes_no_text_is_refused_with_its_key(tmp_path: Path, encoding: str) -> None:
    (line,) = complaints(tmp_path, ("  text", f"  encoding: {encoding}\n  text"))
    assert (
        line.startswith("7: data.encoding: ") and "is not a text encoding; expected one such as utf-8, latin-1" in line
    )


def test_a_file_that_is_not_utf8_is_reported_by_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes("method: lora\nmodel: ü".encode("latin-1"))
    with pytest.raises(StudyFileError, match=r"x\.yaml:2: not UTF-8"):
        load(path)


def test_scalars_follow_yaml_1_2() -> None:
    words = parse("a: [1e-5, no, on, 010, 2020-01-01, 1_000, .5, ~, .inf, True]").data["a"]
    assert words == [1e-5, "no", "on", 10, "2020-01-01", "1_000", 0.5, None, float("inf"), True]
    assert parse_value("{low: -1, high: [a]}") == {"low": -1, "high": ["a"]}


def test_overrides_win_and_their_values_are_yaml(tmp_path: Path) -> None:
    study = load(write(tmp_path), ["train.epochs=7", "space.rank.high=128", "data.labels=[a, b]", "search.pruner=null"])
    assert (study.train.epochs, study.space["rank"].high, study.data.labels) == (7, 128, ["a", "b"])
    assert study.search.pruner is None
    assert load(write(tmp_path), {"train.epochs": 7, "data.train": Path("a.csv")}).data.train == "a.csv"


def test_a_hash_in_an_override_starts_no_comment(tmp_path: Path) -> None:
    overrides = ["data.train=tweets #2.csv", "data.text=#tweet", 'data.labels=["#a", b]']
    data = load(write(tmp_path), overrides).data
    assert (data.train, data.text, data.labels) == ("tweets #2.csv", "#tweet", ["#a", "b"])


def test_files_for_train_and_validation_replace_the_source(tmp_path: Path) -> None:
    data = load(write(tmp_path), ["data.train=a.tsv", "data.validation=b.tsv"]).data
    assert (data.train, data.validation) == ("a.tsv", "b.tsv")
    assert data.source is data.split is data.subset is None
    assert load(write(tmp_path), ["data.source=c.csv"]).data.subset is None
    assert load(write(tmp_path), ["model.id=other"]).model.revision is None


def test_an_override_takes_a_hyperparameter_out_of_the_space_or_into_it(tmp_path: Path) -> None:
    study = load(write(tmp_path), ["train.rank=8", "space.epochs=[1, 2]"])
    assert study.train.rank == 8 and "rank" not in study.space
    assert study.space["epochs"] == (1, 2) and "epochs" not in study.train.model_fields_set


def test_mistakes_in_overrides_are_named_as_such(tmp_path: Path) -> None:
    overrides = [
        "data.trian=x",
        "foo.bar=1",
        "train.epochs",
        "train.batch_size=0",
        "model.id=[",
        "space.scheduler.low=1",
    ]
    assert complaints(tmp_path, overrides=overrides) == [
        "--set foo.bar: foo: unknown key; known here: model, method, data, train, space, search",
        "--set data.trian: unknown key; did you mean train?",
        "--set train.batch_size: expected at least 1, got 0",
        "--set space.scheduler.low: space.scheduler is not a section with keys",
        "--set train.epochs: expected KEY=VALUE, such as train.epochs=5",
        "--set model.id: '[' is not a YAML value (expected the node content, but found '<stream end>'); quote it",
    ]


def test_validation_without_train_is_reported(tmp_path: Path) -> None:
    lines = complaints(tmp_path, overrides=["data.validation=b.tsv"])
    assert lines == ["--set data.validation: needs a file for `train` too"]


def test_a_name_is_found_in_the_first_folder_that_has_it(tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir(), far.mkdir()
    for folder, name in ((near, "a"), (far, "a"), (far, "b")):
        write(folder, name=f"{name}.yaml")
    assert available([near, far]) == ["a", "b"]
    assert find("a", [near, far]) == near / "a.yaml"
    assert load("b", folders=[near, far]).path == far / "b.yaml"


def test_the_working_folder_comes_before_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("demo").is_file()
    monkeypatch.chdir(tmp_path)
    assert find("demo").is_absolute()  # the one of the package
    (tmp_path / "sweeps").mkdir()
    write(tmp_path / "sweeps", name="demo.yaml")
    assert find("demo") == Path("sweeps/demo.yaml")
    with pytest.raises(StudyFileError, match=r"^sweeps/demo\.yaml:9: train\.epoch: "):
        load(write(tmp_path / "sweeps", STUDY.replace("epochs", "epoch"), name="demo.yaml"))


def test_the_nearest_name_of_an_unknown_study_is_suggested(tmp_path: Path) -> None:
    write(tmp_path, name="lora-minilm.yaml")
    with pytest.raises(
        UsageError, match=r"no study 'lora-minlm'; did you mean lora-minilm\? known studies: lora-minilm"
    ):
        load("lora-minlm", folders=[tmp_path])
    with pytest.raises(UsageError, match=r"no study file .*lora-minlm\.yaml; did you mean .*lora-minilm\.yaml\?"):
        load(tmp_path / "lora-minlm.yaml")
    with pytest.raises(UsageError, match="no sweeps/"):
        find("x", [tmp_path / "empty"])


def test_a_study_built_in_python_follows_the_same_rules() -> None:
    base = {"name": "x", "model": {"id": "b"}, "method": "ia3", "data": {"train": "a.csv", "text": "t", "labels": "l"}}
    assert StudyConfig.model_validate(base).method == "ia3"
    with pytest.raises(ValidationError, match=r"space\.rank: ia3 has no rank; space\.x: unknown key"):
        StudyConfig.model_validate({**base, "space": {"rank": [4], "x": [1]}})


def test_sampled_values_are_put_in_place_and_checked_again(tmp_path: Path) -> None:
    study = load(write(tmp_path))
    assert study.hyperparameters({"rank": 4}) == TrainConfig(epochs=2, batch_size=8, rank=4)
    with pytest.raises(ValidationError):
        study.hyperparameters({"rank": 0})


def test_the_identity_is_json_without_the_number_of_trials_or_any_path(tmp_path: Path) -> None:
    identity = load(write(tmp_path)).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert (
        identity == load(write(tmp_path, name="other.yaml"), ["search.trials=99", "search.keep_adapters=1"]).identity()
    )
    assert "rank" not in identity["train"]  # sampled
    assert differences(identity, identity) == []


def test_defaults_that_are_written_out_make_no_difference(tmp_path: Path) -> None:
    old = load(write(tmp_path)).identity()
    assert differences(old, load(write(tmp_path), ["train.max_grad_norm=1.0", "data.max_length=128"]).identity()) == []


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("data.text=text", ["data.text: 'Tweet' in the storage, 'text' in the file"]),
        ("space.rank.high=128", []),
        ("space.rank.high=32", ["space.rank: 4 to 64, log2 in the storage, 4 to 32, log2 in the file"]),
        ("space.rank.log2=false", ["space.rank: 4 to 64, log2 in the storage, 4 to 64 in the file"]),
        ("space.learning_rate.low=1e-6", []),
        (
            "space.scheduler=[linear, cosine, constant]",
            ["space.scheduler: ['linear', 'cosine'] in the storage, ['linear', 'cosine', 'constant'] in the file"],
        ),
        (
            "space.dropout=[0.0]",
            [
                "train.dropout: 0.0 in the storage, nothing in the file",
                "space.dropout: nothing in the storage, [0.0] in the file",
            ],
        ),
    ],
)
def test_differences_are_reported_by_key(tmp_path: Path, override: str, lines: list[str]) -> None:
    stored = json.loads(json.dumps(load(write(tmp_path)).identity()))
    assert differences(stored, load(write(tmp_path), [override]).identity()) == lines


def test_a_key_newer_than_the_storage_makes_no_difference_until_it_is_set(tmp_path: Path) -> None:
    stored = load(write(tmp_path)).identity()
    del stored["data"]["quoting"]
    assert differences(stored, load(write(tmp_path)).identity()) == []
    (line,) = differences(stored, load(write(tmp_path), ["data.quoting=true"]).identity())
    assert line == "data.quoting: nothing in the storage, True in the file"


def test_a_wider_range_by_steps_must_keep_to_the_grid(tmp_path: Path) -> None:
    def identity(low: float) -> dict[str, Any]:
        return load(write(tmp_path), [f"space.dropout={{low: {low}, high: 0.3, step: 0.1}}"]).identity()

    assert differences(identity(0.1), identity(0.0)) == []
    shifted = {
        **identity(0.1),
        "space": {**identity(0.1)["space"], "dropout": {"low": 0.05, "high": 0.35, "step": 0.1}},
    }
    assert len(differences(identity(0.1), shifted)) == 1


@pytest.mark.parametrize("stored", [None, 5, [], {}, {"space": 5}, {"space": {"rank": 5, "dropout": {"low": "x"}}}])
def test_a_stored_value_that_is_no_study_counts_as_another_study(tmp_path: Path, stored: Any) -> None:
    assert differences(stored, load(write(tmp_path)).identity())
    whole = load(write(tmp_path)).identity()
    for key in ("rank", "scheduler"):
        for value in (None, 5, "linear", {"low": "x"}, {"lo": 1}, [[[]]], True):
            (line,) = differences({**whole, "space": {**whole["space"], key: value}}, whole)
            assert line.startswith(f"space.{key}: ")


@pytest.mark.parametrize("key", ["train.seed", "train.batch_size", "train.epochs", "train.evals_per_epoch"])
def test_whole_numbers_are_limited_to_those_that_a_database_returns_exactly(key: str) -> None:
    """Readers of JSON keep whole numbers exact only up to 2**53."""
    _, _, name = key.rpartition(".")
    assert getattr(TrainConfig(**{name: 2**53}), name) == 2**53
    with pytest.raises(ValidationError, match="less than or equal to 9007199254740992"):
        TrainConfig(**{name: 2**53 + 1})
