"""Every test that compares tensors uses the one promise in tests/numbers.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest
import torch

from tests import numbers
from tests.arithmetic import SETTINGS, largest, other

TESTS = Path(__file__).parent


def bare(tree: ast.Module) -> Iterator[int]:
    """Lines that compare a difference with a limit of their own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            limits = [word.value for word in node.keywords if word.arg in ("abs", "rel") and name == "approx"]
            if name in ("allclose", "isclose", "assert_close") or any(_small(limit) for limit in limits):
                yield node.lineno
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE):
            left = ast.unparse(node.left)
            if _small(node.comparators[0]) and any(
                word in left for word in (".abs()", ".norm()", "apart(", "distance(")
            ):
                yield node.lineno


def _small(value: ast.expr) -> bool:
    """Whether it is a constant small enough to be a limit for rounding; shares and probabilities are larger."""
    return isinstance(value, ast.Constant) and isinstance(value.value, float) and 0 < value.value < 0.01


def test_no_test_of_tensors_has_a_limit_of_its_own() -> None:
    found = {}
    for file in sorted(TESTS.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "import torch" in text and file != Path(__file__) and (lines := list(bare(ast.parse(text)))):
            found[str(file.relative_to(TESTS))] = lines
    assert not found
    wrong = ["assert torch.allclose(a, b)", "assert a == approx(b, rel=1e-4)", "assert (a - b).abs().max() < 2e-6"]
    assert [len(list(bare(ast.parse(line)))) for line in wrong] == [1, 1, 1]


def test_only_marked_tests_compare_numbers_in_less_than_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then `make numbers` runs it with other CPU instructions, too."""
    one = torch.ones(3)
    numbers.same(one.double(), one.double())
    with pytest.raises(AssertionError, match="mark this test"):
        numbers.same(one, one)
    monkeypatch.setattr(numbers, "marked", True)
    numbers.same(one, one)
    with pytest.raises(AssertionError):
        numbers.same(one, one + 1e-3)
    with pytest.raises(AssertionError):
        numbers.same(one, one * torch.nan)
    assert numbers.PROMISED[torch.float32].weight == inf


def test_the_largest_deviations_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTSWEEP_DEVIATIONS", str(tmp_path / "noted"))
    assert largest(tmp_path / "noted") == []
    for apart in (1e-12, 3e-10, 0.0):
        numbers.hold("step", apart, torch.float64)
    assert largest(tmp_path / "noted") == ["float64 step: 3.0e-10"]


def test_numbers_run_again_only_with_settings_that_change_them() -> None:
    plainest, second = SETTINGS
    by = {str(plainest): "DEFAULT", str(second): "AVX2"}
    for own, settings in (("AVX512", plainest), ("AVX2", plainest), ("DEFAULT", second)):
        assert other(own, lambda asked: by[str(asked)]) == (settings, by[str(settings)])
    assert other("ARM", lambda asked: "ARM") is None
