"""Are the arguments of `run` and `retrain` valid? Checked before anything is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftsweep.config import MAX_TRIALS, StudyConfig
from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import quoted
from peftsweep.system.addresses import FORMS, is_ray_address


def check_arguments(
    study: str | Path | StudyConfig, slots: object, overrides: Mapping[str, Any] | Sequence[str]
) -> None:
    """
    Raises:
        UsageError: an argument is wrong. The command line's parser rejects the same values.
    """
    if isinstance(study, StudyConfig) and overrides:
        raise UsageError("overrides: only a study file can be overridden; put the values into the StudyConfig itself")
    if slots != "auto":
        check_at_least(1, "slots", slots, "'auto' or ")


def check_address(address: object) -> None:
    """
    Raises:
        UsageError: it is not the address of a Ray cluster.
    """
    if not is_ray_address(address):
        raise UsageError(f"ray_address: expected {FORMS}, got {quoted(address)}")


def check_distinct(configs: Sequence[StudyConfig]) -> None:
    """
    Raises:
        UsageError: a study is named twice.
    """
    twice = [name for name, count in Counter(config.name for config in configs).items() if count > 1]
    if twice:
        raise UsageError(f"study: {quoted(twice[0])} is named more than once")


def check_seconds(name: str, value: object, least: float = 0.0) -> None:
    """
    Raises:
        UsageError: the value is not a number of seconds, or is below the least.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        above = f"at least {least:.0f} seconds" if least else "seconds, such as 7200"
        raise UsageError(f"{name}: expected {above}, got {quoted(value)}")


def check_at_least(least: int, name: str, value: object, other: str = "") -> None:
    """
    Raises:
        UsageError: the value is not a whole number from `least` to the largest number of trials of a study.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name}: expected {other}a whole number of at least {least}, got {quoted(value)}")
    if value > MAX_TRIALS:
        raise UsageError(f"{name}: expected {other}a whole number of at most {MAX_TRIALS:,}, got {quoted(value)}")
