"""No test replaces a function or class of peftsweep: what `setattr` changes is a constant, or belongs to a library."""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Those that are left, each with its reason. The list may only get shorter.
STILL: dict[str, str] = {
    "gpu/test_gpu.py: graphs_of(pack), 'capture'": "slows a step on a real GPU and watches it",
    "gpu/test_gpu.py: pack.batcher, 'micro_batches'": "slows a step on a real GPU and watches it",
    "gpu/test_gpu.py: peftsweep.engine.optimizer.step": "slows a step on a real GPU and watches it",
    "test_benchmarks.py: cpu.time, 'perf_counter'": "not of peftsweep: a benchmark's file",
    "test_benchmarks.py: throughput, 'SIDES'": "not of peftsweep: a benchmark's file",
    "test_benchmarks.py: throughput, 'machine'": "not of peftsweep: a benchmark's file",
    "test_benchmarks.py: throughput, 'matmul_peak'": "not of peftsweep: a benchmark's file",
    "test_benchmarks.py: throughput.time, 'perf_counter'": "not of peftsweep: a benchmark's file",
    "test_benchmarks.py: throughput.torch.cuda, 'synchronize'": "not of peftsweep: a benchmark's file",
    "test_engine.py: peftsweep.engine.optimizer.to_device": "runs out of memory inside an update",
    "test_engine.py: peftsweep.engine.packed_model.PackedModel.compile": "stands in for a GPU",
    "test_export.py: call": "library calls, by name",
    "test_parquet_files.py: parquet_files, bound": "four limits, by name",
    "test_projection.py: Tracker, name": "times the calls of a tracker",
    "test_retrain.py: peftsweep.engine.evaluation.Evaluator.on_test": "`retrain` has no argument for a worker",
    "test_sweep.py: peftsweep.sweep.worker.Pack": "stands in for a GPU",
    "test_sweep.py: peftsweep.sweep.worker.default_device": "stands in for a GPU",
    "test_sweep.py: peftsweep.sweep.worker.load_base": "stands in for a GPU",
    "test_sweep.py: peftsweep.sweep.worker.plan": "stands in for a GPU",
}


def replaced(code: str) -> Iterator[str]:
    """Whatever a test file sets with `setattr` that is a function or class of peftsweep, or might be one."""
    tree = ast.parse(code)
    imported = dict(_imported(tree))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            words = ast.unparse(node.args[0]) if len(node.args) == 3 else ""
            first, _, rest = words.partition(".")
            parts = [imported.get(first, ""), rest] if words else []
            if first in own:
                continue
            name = node.args[1 if words else 0]
            if not isinstance(name, ast.Constant) or parts[:1] == [""]:
                yield ", ".join(map(ast.unparse, node.args[:-1]))
            elif _is_code(path := ".".join(filter(None, [*parts, name.value]))):
                yield path


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that a file imports, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0],) * 2 for alias in node.names if not alias.asname)
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def _is_code(path: str) -> bool:
    if not path.startswith("peftsweep."):
        return False
    found = pkgutil.resolve_name(path)
    return callable(found) and str(getattr(found, "__module__", "")).startswith("peftsweep.")


def test_no_test_replaces_a_function_or_class_of_ours() -> None:
    found = {
        f"{file.relative_to(TESTS)}: {what}"
        for file in sorted(TESTS.rglob("*.py"))
        for what in replaced(file.read_text(encoding="utf-8"))
    }
    assert found == STILL.keys(), "use a constant, a library's call, or a door that users have (see CONTRIBUTING.md)"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("m.setattr(worker, 'Pack', Other)", ["peftsweep.sweep.worker.Pack"]),
        ("m.setattr(worker.Pack, 'step', other)", ["peftsweep.sweep.worker.Pack.step"]),
        ("m.setattr('peftsweep.sweep.worker.load_base', other)", ["peftsweep.sweep.worker.load_base"]),
        ("m.setattr(f'peftsweep.{where}', other)", ["f'peftsweep.{where}'"]),
        ("m.setattr(worker, name, other)", ["worker, name"]),
        ("m.setattr(pack.batcher, 'step', other)", ["pack.batcher, 'step'"]),
        ("m.setattr(worker, 'COMPILE_FROM', 1)", []),
        ("m.setattr('peftsweep.sweep.worker.torch.ones', other)", []),
        ("m.setattr(torch.cuda, 'Stream', other)", []),
        ("class Own: pass\nm.setattr(Own, 'broken', True)", []),
    ],
)
def test_what_counts_as_ours(line: str, found: list[str]) -> None:
    assert list(replaced(f"import torch\nfrom peftsweep.sweep import worker\n{line}")) == found
