"""Does the garbage collector look through what exists already? Not inside these blocks."""

from __future__ import annotations

import gc

from peftsweep.system.garbage import collected_seldom, existing_objects_kept, keep_until_exit


def test_what_exists_is_exempt_inside_the_block_only() -> None:
    gc.unfreeze()
    with existing_objects_kept():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with existing_objects_kept():
        pass
    assert gc.get_freeze_count() >= before > 0


def test_a_threshold_comes_back_also_after_an_error() -> None:
    before = gc.get_threshold()
    try:
        with collected_seldom():
            assert gc.get_threshold()[0] >= 50_000
            raise KeyError
    except KeyError:
        pass
    assert gc.get_threshold() == before


def test_a_sweep_collects_at_the_usual_pace_within_a_command_that_collects_seldom() -> None:
    of_the_tests = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    try:
        with collected_seldom(), existing_objects_kept():
            assert gc.get_threshold() == (700, 10, 10)
        with collected_seldom():
            assert gc.get_threshold() == (50_000, 10, 10)
    finally:
        gc.set_threshold(*of_the_tests)


def test_what_a_command_leaves_is_not_looked_through_when_it_ends() -> None:
    gc.unfreeze()
    keep_until_exit()
    try:
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
