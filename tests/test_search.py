"""The search: distributions, samplers that resume, the grid, halving."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.trial import TrialState, create_trial

from peftsweep.config import StudyConfig
from peftsweep.errors import StudyFileError
from peftsweep.study import (
    Halving,
    decode,
    distributions,
    exhausted,
    grid,
    pruner,
    sampler,
    samplers,
    space,
    trial_seed,
)
from peftsweep.study.pruner import Rungs

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 2e-3, "log": True},
    "rank": {"low": 4, "high": 64, "log2": True},
    "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
    "batch_size": {"low": 8, "high": 32, "step": 8},
    "epochs": {"low": 1, "high": 9, "log": True},
    "scheduler": ["linear", "cosine"],
    "alpha": [None, 16],
    "target_modules": ["auto", ["q_proj", "v_proj"]],
}
GRID: dict[str, Any] = {"rank": SPACE["rank"], "dropout": {"low": 0.1, "high": 0.3, "step": 0.1}, "epochs": [1, 2]}


def study(space: dict[str, Any], **changes: Any) -> StudyConfig:
    data = {"train": "a.csv", "text": "text", "labels": "label"}
    fields = {"name": "s", "model": {"id": "base"}, "method": "lora", "data": data, "space": space, **changes}
    return StudyConfig.model_validate(fields)


def empty(config: StudyConfig, storage: str | None = None) -> optuna.Study:
    return optuna.create_study(
        direction="maximize", storage=storage, study_name="s", sampler=sampler(config, 0), load_if_exists=True
    )


def ask(trials: optuna.Study, config: StudyConfig) -> optuna.Trial:
    """As the sweep asks: with a new sampler for each trial, seeded by its number (tests/test_sweep.py checks that)."""
    trials.sampler = sampler(config, len(trials.get_trials(deepcopy=False)))
    return trials.ask(fixed_distributions=distributions(config))


def test_bounds_are_the_ends_of_ranges_and_every_choice_and_nothing_else() -> None:
    config = study({"rank": SPACE["rank"], "epochs": SPACE["epochs"], "batch_size": [4, 8]})  # not the default's 16
    for end, ends in (("low", (4, 1)), ("high", (64, 9))):
        found = space.candidates(config, end)  # type: ignore[arg-type]
        assert [(c.rank, c.epochs, c.batch_size) for c in found] == [(*ends, 4), (*ends, 8)]


def test_the_space_in_optunas_terms() -> None:
    assert distributions(study(SPACE)) == {
        "learning_rate": FloatDistribution(1e-5, 2e-3, log=True),
        "log2_rank": IntDistribution(2, 6),
        "dropout": FloatDistribution(0.0, 0.3, step=0.1),
        "batch_size": IntDistribution(8, 32, step=8),
        "epochs": IntDistribution(1, 9, log=True),
        "scheduler": CategoricalDistribution(["linear", "cosine"]),
        "alpha": CategoricalDistribution([None, 16]),
        "target_modules": CategoricalDistribution(["auto", '["q_proj", "v_proj"]']),
    }


def test_optunas_parameters_become_hyperparameters_again() -> None:
    params = {"log2_rank": 5, "alpha": 16, "target_modules": '["q_proj", "v_proj"]', "epochs": 3, "dropout": 0.1}
    sampled = decode(study(SPACE), params | {"of_another_file": 1})
    assert sampled == {"rank": 32, "alpha": 16, "target_modules": ("q_proj", "v_proj"), "epochs": 3, "dropout": 0.1}
    assert isinstance(sampled["rank"], int)
    assert study(SPACE).hyperparameters(sampled).target_modules == ("q_proj", "v_proj")


def test_powers_of_two_of_a_real_number_may_be_below_one() -> None:
    config = study({"alpha": {"low": 0.25, "high": 8, "log2": True}})
    assert distributions(config) == {"log2_alpha": IntDistribution(-2, 3)}
    assert decode(config, {"log2_alpha": -2}) == {"alpha": 0.25}


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_every_sample_is_a_valid_trial_and_survives_the_storage(kind: str, tmp_path: Path) -> None:
    config = study(SPACE, search={"sampler": kind, "trials": 12})
    trials = empty(config, f"sqlite:///{tmp_path}/studies.db")
    for _ in range(12):
        trial = ask(trials, config)
        trials.tell(trial, config.hyperparameters(decode(config, trial.params)).learning_rate)
    for stored in optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/studies.db").trials:
        assert config.hyperparameters(decode(config, stored.params)).rank in (4, 8, 16, 32, 64)


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_resumed_study_does_not_sample_its_first_trials_again(kind: str) -> None:
    config = study(SPACE, search={"sampler": kind})
    trials = empty(config)
    rates = [ask(trials, config).params["learning_rate"] for _ in range(8)]
    assert len(set(rates)) == 8
    again = empty(config)
    assert [ask(again, config).params["learning_rate"] for _ in range(8)] == rates
    other = study(SPACE, search={"sampler": kind}, train={"seed": 1})
    assert ask(empty(other), other).params["learning_rate"] != rates[0]


def test_tpe_finds_the_region_of_good_trials() -> None:
    config = study({"learning_rate": SPACE["learning_rate"]}, search={"trials": 40})
    trials = empty(config)
    for _ in range(40):
        trial = ask(trials, config)
        trials.tell(trial, -abs(math.log(trial.params["learning_rate"] / 1e-3)))
    late = [t.params["learning_rate"] for t in trials.trials[25:]]
    assert sum(5e-4 < rate < 2e-3 for rate in late) >= 9  # by chance: 4 of 15


@pytest.mark.parametrize(("total", "random_ones"), [(8, 4), (24, 6), (400, 10)])
def test_tpe_starts_with_a_quarter_at_random_and_considers_running_trials(total: int, random_ones: int) -> None:
    config = study(SPACE, search={"trials": total})
    trials = empty(config)
    trials.add_trial(create_trial(state=TrialState.RUNNING))
    (new,) = trials.trials

    def together() -> list[dict[str, Any]]:
        samplers = [sampler(config, number) for number in range(8)]
        return [one.sample_relative(trials, new, one.infer_relative_search_space(trials, new)) for one in samplers]

    for _ in range(random_ones):
        assert not any(together())
        trial = ask(trials, config)
        trials.tell(trial, trial.params["learning_rate"])
    modelled = together()
    ask(trials, config)  # one more trial is running
    assert all(modelled) and together() != modelled


def test_a_range_may_be_widened_between_runs() -> None:
    narrow = study({"rank": {"low": 4, "high": 8, "log2": True}, "dropout": {"low": 0.0, "high": 0.1}})
    wide = study({"rank": {"low": 4, "high": 64, "log2": True}, "dropout": {"low": 0.0, "high": 0.1}})
    trials = empty(narrow)
    for config, count in ((narrow, 12), (wide, 24)):
        for _ in range(count):
            trial = ask(trials, config)
            trials.tell(trial, decode(config, trial.params)["rank"])
    assert max(decode(wide, t.params)["rank"] for t in trials.trials) == 64


def test_a_grid_has_every_value_of_the_file() -> None:
    config = study({**GRID, "batch_size": {"low": 8, "high": 10}}, search={"sampler": "grid"})
    assert grid(config) == {
        "log2_rank": [2, 3, 4, 5, 6],
        "dropout": [0.1, 0.2, 0.3],
        "epochs": [1, 2],
        "batch_size": [8, 9, 10],
    }


def test_a_grid_is_visited_once_and_then_exhausted() -> None:
    config = study(GRID, search={"sampler": "grid"})
    trials = empty(config)
    seen = []
    while not exhausted(config, trials):
        trial = ask(trials, config)
        seen.append(decode(config, trial.params))
        if len(seen) % 3:  # some trials stay running, some fail
            trials.tell(trial, None if len(seen) % 4 else 0.5, state=TrialState.FAIL if len(seen) % 4 else None)
    values = [(p["rank"], p["dropout"], p["epochs"]) for p in seen]
    assert len(values) == 30
    assert set(values) == set(itertools.product((4, 8, 16, 32, 64), (0.1, 0.2, 0.3), (1, 2)))
    assert values != sorted(values)


def test_a_wider_grid_visits_only_the_new_points() -> None:
    wider = {**GRID, "dropout": {"low": 0.0, "high": 0.4, "step": 0.1}}
    trials = empty(study(GRID))
    for given, total in ((GRID, 30), (wider, 50)):
        config = study(given, search={"sampler": "grid"})
        while not exhausted(config, trials):
            trials.tell(ask(trials, config), 0.5)
        assert len(trials.trials) == total


def test_other_samplers_are_never_exhausted() -> None:
    config = study({"epochs": [1]})
    trials = empty(config)
    trials.tell(ask(trials, config), 0.5)
    assert not exhausted(config, trials)


@pytest.mark.parametrize(
    "entry",
    [
        {"learning_rate": SPACE["learning_rate"]},
        {"weight_decay": {"low": 0.0, "high": 0.1}},
        {"batch_size": {"low": 8, "high": 32, "log": True}},
    ],
    ids=["log", "fractions", "log of whole numbers"],
)
def test_a_grid_that_never_ends_is_refused(entry: dict[str, Any]) -> None:
    config, (name,) = study(entry), entry  # the file's rules check it when the sampler is grid
    with pytest.raises(StudyFileError, match=rf"s: space\.{name}: a grid needs step, log2 or a list of values"):
        grid(config)
    with pytest.raises(StudyFileError, match=r"the grid has 200,001 points"):
        grid(study({"weight_decay": {"low": 0.0, "high": 1.0, "step": 5e-6}}))


def test_trial_seeds_are_stable_and_distinct() -> None:
    assert [trial_seed(0, n) for n in range(3)] == [trial_seed(0, n) for n in range(3)]
    seeds = {trial_seed(study_seed, number) for study_seed in range(30) for number in range(100)}
    assert len(seeds) == 3000 and all(0 <= seed < 2**32 for seed in seeds)
    assert trial_seed(0, 7) == 1369798745
    assert seeds.isdisjoint(samplers.replicate_seed(study_seed, n) for study_seed in range(30) for n in range(1, 100))
    config = study(SPACE, search={"sampler": "random"})
    own = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=trial_seed(0, 0)))
    assert own.ask(distributions(config)).params != ask(empty(config), config).params


def reported(scores: dict[int, list[float]]) -> Rungs:
    """The rungs after trial n has had the evaluations scores[n]."""
    rungs = Rungs()
    for given in scores.values():
        rungs.count(dict(enumerate(given, start=1)), 1)
    return rungs


def test_rungs_stand_at_powers_of_the_reduction() -> None:
    assert [i for i in range(1, 30) if Halving(3, 1).is_rung(i)] == [1, 3, 9, 27]
    assert [i for i in range(1, 30) if Halving(2, 3).is_rung(i)] == [3, 6, 12, 24]


def test_the_best_third_of_a_pack_continues() -> None:
    scores = {n: [n / 10] for n in range(8)}
    kept = Halving(3, 1).decide({n: (1, n / 10) for n in range(8)}, reported(scores))
    assert [n for n, keep in kept.items() if keep] == [6, 7]  # 8 // 3


def test_the_order_of_the_slots_does_not_matter() -> None:
    dice = random.Random(0)
    for _ in range(50):
        scores = {
            n: [dice.choice([0.1, 0.2, 0.3, 0.4, math.nan])] * dice.choice([1, 3]) for n in range(dice.randint(1, 9))
        }
        trials = reported(scores)
        at = [(n, (len(given), given[-1])) for n, given in scores.items()]
        decisions = Halving(2, 1).decide(dict(at), trials)
        for _ in range(5):
            dice.shuffle(at)
            assert Halving(2, 1).decide(dict(at), trials) == decisions


def test_a_trial_is_compared_with_all_that_have_reached_the_rung() -> None:
    rungs = reported({0: [0.9], 1: [0.5], 2: [0.8], 3: [0.7]})
    assert Halving(2, 1).decide({3: (1, 0.7)}, rungs) == {3: False}  # 4 // 2 of 0.9, 0.8, 0.7, 0.5
    rungs.count({1: 0.8}, -1)
    assert Halving(2, 1).decide({3: (1, 0.7)}, rungs) == {3: False}  # 3 // 2 of 0.9, 0.7, 0.5
    rungs.count({1: 0.9}, -1)
    assert Halving(2, 1).decide({3: (1, 0.7)}, rungs) == {3: True}


def test_trials_with_equal_scores_continue_together_and_a_lone_trial_always() -> None:
    assert Halving(3, 1).decide(
        dict.fromkeys(range(4), (1, 0.5)), reported({n: [0.5] for n in range(4)})
    ) == dict.fromkeys(range(4), True)
    assert Halving(3, 1).decide({0: (1, 0.0)}, reported({0: [0.0]})) == {0: True}


def test_between_rungs_all_trials_continue_except_diverged_ones() -> None:
    trials = reported({0: [0.9, 0.1], 1: [0.9, 0.8], 2: [0.9, math.nan], 3: [0.9, math.inf]})
    at = {0: (2, 0.1), 1: (2, 0.8), 2: (2, math.nan), 3: (2, math.inf)}
    assert Halving(3, 1).decide(at, trials) == {0: True, 1: True, 2: False, 3: False}


def test_slots_at_different_rungs_are_judged_each_at_its_own() -> None:
    trials = reported({0: [0.9, 0.9, 0.3], 1: [0.9, 0.9, 0.4], 2: [0.2], 3: [0.95]})
    at = {0: (3, 0.3), 1: (3, 0.4), 2: (1, 0.2), 3: (1, 0.95)}
    assert Halving(2, 1).decide(at, trials) == {0: True, 1: True, 2: False, 3: True}
    assert Halving(3, 1).decide(at, trials) == {0: False, 1: True, 2: False, 3: True}


def test_one_lucky_diverged_score_never_raises_the_bar() -> None:
    trials = reported({0: [math.inf], 1: [0.5]})
    assert pruner.Halving(3, 1).decide({0: (1, math.inf), 1: (1, 0.5)}, trials) == {0: False, 1: True}
