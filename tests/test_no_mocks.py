"""No test replaces code of peftsweep. What a test may replace is a constant, or a function of a library.

One helper wraps functions, in a process of its own: `studies.struck` sends the real program a signal as soon as a given
call has returned. The call itself is the real one.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType

import pytest

from tests.studies import ROOT

TESTS = Path(__file__).parent


class Replaced(ast.NodeVisitor):
    """Collects what a test file replaces that is code of peftsweep, or might be.

    An owner that the file imports is looked up. Of another one, such as a local variable, only the attribute's name is
    known, and it counts if a class of peftsweep has a method of that name, or if mypy is told to ignore the assignment
    to a method.
    """

    def __init__(self, code: str) -> None:
        tree = ast.parse(code, type_comments=True)
        self.found: list[str] = []
        self.ignored = {each.lineno for each in tree.type_ignores if "method-assign" in each.tag}
        self.imported = dict(_imported(tree))
        self.own = {"self", "cls"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        self.visit(tree)

    def visit_Call(self, call: ast.Call) -> None:
        self.generic_visit(call)
        kind = ast.unparse(call.func).rpartition("mock.")[2]
        name = kind.rpartition(".")[2]
        words = {word.arg: word.value for word in call.keywords if word.arg}
        given = [*call.args, *(words[key] for key in ("target", "name", "value") if key in words)]
        if name in ("setattr", "delattr"):
            self.attribute(*given[: len(given) - (name == "setattr")])
        elif kind in ("patch", "patch.object"):
            self.attribute(*given[: 1 + (kind == "patch.object")])
        elif kind == "patch.multiple":
            for word in words:
                self.attribute(given[0], ast.Constant(word))
        elif name == "setitem" or kind == "patch.dict":
            self.item(*given[:2])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            self.attribute(node.value, ast.Constant(node.attr), assigned=True)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Store):  # a method that a test has registered may be deleted
            self.item(node.value, node.slice)

    def attribute(self, owner: ast.expr, name: ast.expr | None = None, *, assigned: bool = False) -> None:
        """`owner` may be a path in words, and `name` is missing then. Data are often assigned, but seldom patched."""
        root, path = self.path(owner)
        if isinstance(owner, ast.Name) and root in self.own:
            return
        last = name or owner
        if not isinstance(last, ast.Constant):
            ours = path is None or path.startswith("peftsweep")
        elif name is None:
            ours = _is_code(str(last.value))
        elif path is None:
            ours = last.value in _methods() - (_data() if assigned else set()) | {"__class__"}
            ours |= owner.lineno in self.ignored
        else:
            ours = _is_code(f"{path}.{last.value}")
        if ours:
            known = name is not None and isinstance(last, ast.Constant)
            self.found.append(f"{ast.unparse(owner)}.{last.value}" if known else ast.unparse(owner))

    def item(self, owner: ast.expr, key: ast.expr | None = None) -> None:
        """An entry of a registry, or of `sys.modules`."""
        _, path = self.path(owner)
        what = ast.unparse(owner) + (f"[{ast.unparse(key)}]" if key else "")
        if path == "sys.modules":
            if "peftsweep" in what:
                self.found.append(what)
        elif path is not None and path.startswith("peftsweep."):
            held = pkgutil.resolve_name(path)
            if isinstance(held, Mapping) and any(map(_is_ours, held.values())):
                self.found.append(what)

    def path(self, owner: ast.expr) -> tuple[str, str | None]:
        """The first name of an expression, and the dotted path that it stands for if that name is imported."""
        first, _, rest = ast.unparse(owner).partition(".")
        return first, ".".join(filter(None, [self.imported[first], rest])) if first in self.imported else None


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that a file imports, and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0],) * 2 for alias in node.names if not alias.asname)
            yield from ((alias.asname, alias.name) for alias in node.names if alias.asname)
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


@cache
def _nodes() -> list[ast.AST]:
    files = (ROOT / "peftsweep").rglob("*.py")
    return [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]


@cache
def _methods() -> set[str]:
    """The names of all methods of peftsweep."""
    parts = [part for node in _nodes() if isinstance(node, ast.ClassDef) for part in node.body]
    return {part.name for part in parts if isinstance(part, ast.FunctionDef)}


@cache
def _data() -> set[str]:
    """The names of all attributes of peftsweep that hold data."""
    parts = [part for node in _nodes() if isinstance(node, ast.ClassDef) for part in node.body]
    found = {part.target.id for part in parts if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)}
    return found | {
        node.attr for node in _nodes() if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _is_code(path: str) -> bool:
    if not path.startswith("peftsweep."):
        return False
    try:
        return _is_ours(pkgutil.resolve_name(path))
    except (AttributeError, ImportError):  # as with raising=False
        return True


def _is_ours(found: object) -> bool:
    if isinstance(found, property | cached_property):
        return True
    if isinstance(found, ModuleType):
        return found.__name__.startswith("peftsweep")
    if isinstance(found, type) or inspect.isroutine(found) or hasattr(found, "__wrapped__"):
        return str(getattr(found, "__module__", "")).startswith("peftsweep")
    return callable(found)  # an object that peftsweep made, such as a typer application


def test_no_test_replaces_code_of_ours() -> None:
    found = [
        f"{file.relative_to(TESTS)}: {what}"
        for file in sorted(TESTS.rglob("*.py"))
        for what in Replaced(file.read_text(encoding="utf-8")).found
    ]
    assert not found, "use a constant, a library's call, or a door that users have (see CONTRIBUTING.md)"


IMPORTS = """
import sys
from unittest import mock
import torch
import peftsweep
from peftsweep import cli
from peftsweep.methods import METHODS
from peftsweep.workers import worker
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("m.setattr(worker, 'Pack', Other)", "worker.Pack"),
        ("m.setattr(worker, 'Pack', Other, raising=False)", "worker.Pack"),
        ("m.setattr(target=worker, name='Pack', value=Other)", "worker.Pack"),
        ("m.setattr(worker.Pack, 'step', other)", "worker.Pack.step"),
        ("setattr(worker.Pack, 'step', other)", "worker.Pack.step"),
        ("m.setattr('peftsweep.workers.worker.load_base', other)", "'peftsweep.workers.worker.load_base'"),
        ("m.setattr('peftsweep.workers.worker.new', other, raising=False)", "'peftsweep.workers.worker.new'"),
        ("m.setattr(f'peftsweep.{where}', other)", "f'peftsweep.{where}'"),
        ("m.setattr(worker, name, other)", "worker"),
        ("m.setattr(pack.batcher, 'micro_batches', other)", "pack.batcher.micro_batches"),
        ("m.setattr(cli, 'app', other)", "cli.app"),
        ("m.setattr(peftsweep, 'cli', other)", "peftsweep.cli"),
        ("m.delattr('peftsweep.workers.worker.Pack')", "'peftsweep.workers.worker.Pack'"),
        ("m.delattr(worker, 'Pack')", "worker.Pack"),
        ("m.setitem(METHODS, 'lora', other)", "METHODS['lora']"),
        ("m.setitem(sys.modules, 'peftsweep.cli', other)", "sys.modules['peftsweep.cli']"),
        ("METHODS['lora'] = other", "METHODS['lora']"),
        ("del METHODS['own']", None),
        ("mock.patch('peftsweep.workers.worker.Pack')", "'peftsweep.workers.worker.Pack'"),
        ("with mock.patch.object(worker, 'Pack'): pass", "worker.Pack"),
        ("mock.patch.multiple(worker, Pack=other)", "worker.Pack"),
        ("mock.patch.dict(METHODS, lora=other)", "METHODS"),
        ("worker.Pack = Other", "worker.Pack"),
        ("worker.Pack.step, a = other", "worker.Pack.step"),
        ("pack.batcher.micro_batches = other", "pack.batcher.micro_batches"),
        ("pack.__class__ = Other", "pack.__class__"),
        ("shown.warn = print  # type: ignore[method-assign]", "shown.warn"),
        ("shown.warn = print  # type: ignore[assignment, method-assign]", "shown.warn"),
        ("torch.Tensor.float = other  # type: ignore[method-assign]", None),
        ("m.setattr(worker, 'COMPILE_FROM', 1)", None),
        ("worker.COMPILE_FROM = 1", None),
        ("m.setattr('peftsweep.workers.worker.torch.ones', other)", None),
        ("m.setattr(worker.torch, 'ones', other)", None),
        ("m.setattr(torch.cuda, 'Stream', other)", None),
        ("m.setattr(benchmark, 'SIDES', other)", None),
        ("m.setitem(sys.modules, 'ray', other)", None),
        ("class Own: pass\nm.setattr(Own, 'step', True)", None),
        ("class Own:\n def __init__(self): self.step = 1", None),
        ("pack.limit = 5", None),
        ("rows['step'] = 5", None),
    ],
)
def test_what_counts_as_ours(line: str, found: str | None) -> None:
    assert Replaced(f"{IMPORTS}\n{line}").found == ([found] if found else [])
