"""A study in the memory of the process that has its lease: what others see of it, and when."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pprint import pformat
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from peftsweep.errors import StorageError, StudyBusyError
from peftsweep.storage import StoredStudy, Studies, guarded, write_study, write_trial
from peftsweep.storage import leased_storage as storage_module
from tests.postgresql import Server
from tests.stored import add_study, add_trial, trial_attrs
from tests.test_storage import hang_up, studies, url

__all__ = ["studies", "url"]  # fixtures
SPACE = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "log2_rank": IntDistribution(2, 6),
    "scheduler": CategoricalDistribution(("linear", "cosine", None)),
}


def story(studies: Studies, study: StoredStudy) -> None:
    """Everything that a sweep does with a study."""
    study.sampler = RandomSampler(seed=0)
    first, second = study.ask(), study.ask(SPACE)
    for name, distribution in SPACE.items():
        studies.give(first, name, distribution.to_external_repr(2.0 if name != "learning_rate" else 1e-3), distribution)
    for step, value in enumerate([0.25, 0.5, float("nan"), float("-inf")], 1):
        first.report(value, step)
        write_trial(first, evaluations=[], seconds=1.5 * step)
    second.report(0.75, 1)
    for key, value in trial_attrs(0.5, note=("a", {1: None}, "ä\ud800\0")).items():
        first.set_user_attr(key, value)
    study.tell(first, 0.5)
    study.tell(second, state=TrialState.PRUNED)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.enqueue_trial({"log2_rank": 3}, user_attrs={"by": "hand"})
    assert study.ask().user_attrs == {"by": "hand"}
    studies.begin(study, retrains=0, replicate=1)
    study.enqueue_trial({"log2_rank": 4})
    study.add_trial(
        optuna.create_trial(value=0.7, params={"log2_rank": 5}, distributions={"log2_rank": SPACE["log2_rank"]})
    )
    write_study(study, total=9, described={"device": "cpu"})
    write_study(study, total=12)
    study._storage.set_study_system_attr(study._study_id, "by", ["hand"])


def elsewhere(url: str, name: str = "one") -> optuna.Study:
    """The study as another program has it."""
    return optuna.load_study(study_name=name, storage=Studies(url).storage)


def fields(trial: FrozenTrial) -> str:
    """A trial as text, without its id and times: NaN equals no other, and the order of attributes means nothing."""
    moments = [moment is not None for moment in (trial.datetime_start, trial.datetime_complete)]
    rest = {key: value for key, value in vars(trial).items() if "datetime" not in key and key != "_trial_id"}
    return pformat(rest | {"moments": moments, "order": list(trial.params)})


def seen(url: str, name: str = "one") -> dict[str, Any]:
    """What another process sees of a study, without ids and times."""
    study = elsewhere(url, name)
    found: dict[str, Any] = {
        "attrs": study.user_attrs,
        "system": study._storage.get_study_system_attrs(study._study_id),
    }
    for trial in study.get_trials():
        found[f"trial {trial.number}"] = fields(trial)
    return found


def held(studies: Studies) -> StoredStudy:
    return studies.hold(studies.load("one"))[0]


def test_a_study_in_memory_is_written_as_optuna_writes_it(url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    plain_url = f"sqlite:///{tmp_path_factory.mktemp('plain')}/studies.db"
    for where in (url, plain_url):
        add_trial(add_study(where, "one", key="k", bound=None), 0.6)
    plain, ours = Studies(plain_url), Studies(url)
    story(plain, plain.load("one"))
    study = held(ours)
    story(ours, study)
    before = [(record.number, record.state) for record in study.records()]
    assert len(seen(url)) == 2 + 1  # nothing is written yet
    study.flush()
    assert seen(url) == seen(plain_url)
    assert [(record.number, record.state) for record in Studies(url).load("one").records()] == before
    assert study.record == Studies(url).load("one").record
    ours.load("one").check_numbers()
    story(plain, plain.load("one"))
    story(ours, study)  # the same again, on trials and rows that are there
    study.flush()
    assert seen(url) == seen(plain_url)


def test_what_memory_shows_is_what_the_database_has_after_a_flush(url: str) -> None:
    add_study(url, "one")
    studies = Studies(url)
    study = held(studies)
    story(studies, study)
    shown, waiting = study.get_trials(), study.get_trials(states=(TrialState.WAITING,))
    study.flush()
    stored = Studies(url).load("one").get_trials()
    for ours, theirs in zip(shown, stored, strict=True):
        assert fields(ours) == fields(theirs)
        assert (ours.datetime_start, ours.datetime_complete) == (theirs.datetime_start, theirs.datetime_complete)
    assert [trial.number for trial in waiting] == [5]
    assert study._storage.get_n_trials(study._study_id, (TrialState.WAITING,)) == 1


def test_trials_that_others_enqueue_are_seen_and_every_trial_has_a_number_of_its_own(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_trial(add_study(url, "one"), 0.6)
    study = held(Studies(url))
    ours = study.ask()
    assert ours.number == 1
    elsewhere(url).enqueue_trial({"log2_rank": 3})  # the database numbers it 1, too
    study.flush()
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    Studies(url).load("one").check_numbers()
    asked = study.ask()
    assert (asked.number, asked._fixed_params) == (2, {"log2_rank": 3})
    elsewhere(url).enqueue_trial({"log2_rank": 4})
    study.tell(asked, 0.5)
    study.flush()
    assert study.ask().number == 3
    study.flush()
    monkeypatch.setattr(storage_module, "LOOK", 0.0)
    elsewhere(url).enqueue_trial({"log2_rank": 5})
    study.flush()  # nothing to write: it only looks
    assert [trial.number for trial in study.get_trials(states=(TrialState.WAITING,))] == [4]
    numbers = [(trial.number, trial.state.name) for trial in elsewhere(url).trials]
    assert numbers == [*zip(range(5), ["COMPLETE", "RUNNING", "COMPLETE", "RUNNING", "WAITING"], strict=True)]


def test_a_look_is_a_second_apart_unless_something_is_written(url: str) -> None:
    add_study(url, "one")
    study = held(Studies(url))
    statements: list[str] = []
    sqlalchemy.event.listen(study._rdb.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(100):
        study.flush()
    assert statements == []


def broken(message: str) -> Callable[..., None]:
    def fail(*args: Any) -> None:
        raise sqlalchemy.exc.OperationalError(message, None, Exception(message))

    return fail


def test_a_flush_that_fails_leaves_nothing_and_can_be_repeated(url: str) -> None:
    add_study(url, "one")
    studies = Studies(url)
    study = held(studies)
    story(studies, study)
    fail = broken("disk is full")

    def at_values(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "INSERT INTO trial_intermediate_values" in statement:
            fail()

    sqlalchemy.event.listen(study._rdb.engine, "before_cursor_execute", at_values)
    before = seen(url)
    with pytest.raises(StorageError), guarded(url):
        study.flush()
    assert seen(url) == before
    elsewhere(url).enqueue_trial({"log2_rank": 2})  # takes the same id and number
    sqlalchemy.event.remove(study._rdb.engine, "before_cursor_execute", at_values)
    study.flush()
    shown = {record.number: record.state for record in study.records()}
    assert {record.number: record.state for record in Studies(url).load("one").records()} == shown
    Studies(url).load("one").check_numbers()


def test_two_studies_are_written_together(url: str) -> None:
    add_study(url, "one")
    add_study(url, "one/retrain")
    studies = Studies(url)
    main, seeds = studies.hold(studies.load("one"), studies.load("one/retrain"))
    write_study(main, total=3)
    assert [studies.begin(seeds, retrains=0, replicate=1).number, main.ask().number] == [0, 0]
    seeds.flush()
    assert (Studies(url).load("one").record.total, len(Studies(url).load("one/retrain").trials)) == (3, 1)


def test_a_study_that_is_deleted_meanwhile_is_reported_with_and_without_something_to_write(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_study(url, "one")
    study = held(Studies(url))
    trial = study.ask()
    study.flush()
    optuna.delete_study(study_name="one", storage=Studies(url).storage)
    trial.report(0.5, 1)
    with pytest.raises(StorageError), guarded(url):
        study.flush()
    add_study(url, "two")
    idle = Studies(url)
    (second,) = idle.hold(idle.load("two"))
    optuna.delete_study(study_name="two", storage=Studies(url).storage)
    monkeypatch.setattr(storage_module, "LOOK", 0.0)
    with pytest.raises(StorageError), guarded(url):
        second.flush()


def test_a_trial_that_another_process_ended_is_not_written_over(url: str) -> None:
    add_study(url, "one")
    study = held(Studies(url))
    trial = study.ask()
    study.flush()
    other = elsewhere(url)
    other.tell(0, state=TrialState.FAIL)
    study.tell(trial, 0.5)
    with pytest.raises(StorageError), guarded(url):
        study.flush()
    assert [trial.state for trial in Studies(url).load("one").trials] == []  # failed by others: it has no record
    with pytest.raises(UpdateFinishedTrialError):
        trial.report(0.7, 9)


def test_a_parameter_with_another_distribution_is_refused_as_by_optuna(url: str) -> None:
    add_study(url, "one")
    study = held(Studies(url))
    study.ask({"x": CategoricalDistribution(("a", "b"))})
    with pytest.raises(ValueError, match="CategoricalDistribution does not support dynamic value space"):
        study.ask({"x": CategoricalDistribution(("a", "c"))})


def test_a_process_that_lost_its_lease_writes_nothing(postgresql: Server) -> None:
    url = postgresql.database()
    add_study(url, "one")
    mine, theirs = Studies(url), Studies(url)
    with mine.lease("one"):
        study = held(mine)
        trial = study.ask()
        study.flush()
        hang_up(postgresql, url)
        with theirs.lease("one"):
            held(theirs).ask()
        study.tell(trial, 0.5)
        for _ in range(2):
            with pytest.raises(StudyBusyError):
                study.flush()
    assert [record.state.name for record in Studies(url).load("one").records()] == ["RUNNING"]


@contextmanager
def asked(url: str) -> Iterator[tuple[Studies, StoredStudy, optuna.Trial]]:
    """A new study that this process holds, and its first trial."""
    add_study(url, "one")
    studies = Studies(url)
    with studies.lease("one"):
        study = held(studies)
        yield studies, study, study.ask()


def test_a_server_that_restarts_between_two_flushes_is_not_noticed(postgresql: Server) -> None:
    url = postgresql.database()
    with asked(url) as (_, study, trial):
        study.flush()
        with postgresql.down():
            trial.report(0.5, 1)
            with pytest.raises(StorageError), guarded(url):
                study.flush()
        study.flush()
    assert Studies(url).load("one").trials[0].intermediate_values == {1: 0.5}


@pytest.mark.parametrize("committed", [True, False])
def test_a_connection_that_is_lost_during_a_commit_loses_and_doubles_nothing(
    postgresql: Server, committed: bool
) -> None:
    url = postgresql.database()
    with asked(url) as (studies, study, trial):
        trial.report(0.5, 1)

        @sqlalchemy.event.listens_for(studies.storage.engine, "commit", once=True)
        def cut(connection: sqlalchemy.Connection) -> None:
            if committed:
                connection.connection.commit()
                connection.connection.cursor().execute("SELECT 1")  # so that the next commit is sent, too
            hang_up(postgresql, url, "%")

        with pytest.raises(sqlalchemy.exc.DBAPIError):
            study.flush()
        assert len(elsewhere(url).trials) == committed
        study.flush()
        study.tell(trial, 0.5)
        study.flush()
    assert [(trial.number, trial.value) for trial in elsewhere(url).trials] == [(0, 0.5)]


KILLED = """
import os, sys
from peftsweep.storage import Studies

studies = Studies(sys.argv[1])
(study,) = studies.hold(studies.load("one"))
for number in range(1000):
    trial = study.ask()
    trial.report(0.5, 1)
    if number % 10 == 9:
        study.flush()
        print(number + 1, flush=True)
"""


def test_a_killed_process_leaves_whole_groups(url: str) -> None:
    add_study(url, "one")
    with subprocess.Popen([sys.executable, "-c", KILLED, url], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(3)]
        process.kill()
    trials = Studies(url).load("one").trials
    assert len(trials) >= written[-1] == 30 and len(trials) % 10 == 0
    assert all(trial.intermediate_values == {1: 0.5} for trial in trials)


def test_a_signal_just_after_a_commit_does_not_let_the_group_be_written_again(url: str) -> None:
    add_study(url, "one")
    studies = Studies(url)
    study = held(studies)

    @sqlalchemy.event.listens_for(studies.storage.engine, "commit", once=True)
    def interrupt(connection: sqlalchemy.Connection) -> None:
        connection.connection.commit()
        raise KeyboardInterrupt

    write_trial(study.ask(), began=1)
    with pytest.raises(KeyboardInterrupt):
        study.flush()
    with pytest.raises(KeyboardInterrupt):
        study.flush()
    assert [(trial.number, trial.user_attrs) for trial in elsewhere(url).trials] == [(0, {"began": 1})]


@pytest.mark.parametrize("reason", ["plain", "ä 愛", "half a character: \ud800", "zero: \0", "a line\u2028and another"])
def test_a_fact_is_read_as_it_was_written_in_any_letters(studies: Studies, url: str, reason: str) -> None:
    (study,) = studies.hold(add_study(url, "one"))
    asked = study.ask()
    facts: dict[str, Any] = {"params": {"learning_rate": 1e-5, "whole": 2**53, "none": None}, "reason": reason}
    write_trial(asked, **facts, scores={"loss": float("inf")}, seconds=1 / 3)
    study.flush()
    (trial,) = elsewhere(url).trials
    assert trial.user_attrs == facts | {"scores": {"loss": float("inf")}, "seconds": 1 / 3}
    with studies.storage.engine.connect() as connection:
        stored = connection.execute(sqlalchemy.text("SELECT value_json FROM trial_user_attributes")).scalars().all()
    assert all(text.isascii() for text in stored)  # a database may have any encoding
