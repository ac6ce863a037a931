"""Does each file import only from lower floors, and only the libraries that it may use?"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from peftsweep.config import SPECS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "peftsweep"
FLOORS = {
    "__version__": 0,
    "scores": 0,
    "sweep_state": 0,
    "trial_state": 0,
    "safe_text": 0,
    "errors": 1,
    "system": 2,
    "config": 3,
    "task": 3,
    "charts": 3,
    "models": 4,
    "storage": 4,
    "tracking": 4,
    "layers": 5,
    "methods": 6,
    "data": 6,
    "engine": 7,
    "study": 8,
    "workers": 8,
    "comparison": 9,
    "dashboard": 9,
    "progress": 9,
    "export": 9,
    "sweep": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
# library -> the files and folders that may import it
ONLY = {
    "sklearn": {"task"},
    "bitsandbytes": {"models"},
    "peft": {"methods"},
    "sqlalchemy": {"storage"},
    "mlflow": {"tracking"},
    "charset_normalizer": {"data"},
    "datasets": {"data"},
    "iterstrat": {"data", "task"},
    "ray": {"system", "workers"},
    "rich": {"progress"},
    "typer": {"cli"},
    "matplotlib": {"charts"},
    "plotly": {"dashboard"},
    "jinja2": {"dashboard"},
    "filelock": {"storage"},
    "optuna": {"study", "storage", "comparison", "sweep"},
    "triton": {"engine", "layers", "methods"},
    "scipy": {"study", "sweep"},
    "click": set(),
}
USED_BY_OTHERS = {"accelerate", "gguf"}  # named in pyproject.toml because transformers needs them
BROUGHT_BY_TORCH = {"triton"}  # comes with its CUDA builds, and is imported only with a GPU


class Import(NamedTuple):
    room: str  # the importing file or folder at the top of peftsweep/
    place: str  # file:line
    module: str


def room(module: str) -> str:
    """The file or folder at the top of peftsweep/, such as `engine` for peftsweep.engine.pack."""
    return module.removeprefix("peftsweep").lstrip(".").partition(".")[0]


@cache
def imports() -> list[Import]:
    """Every import in peftsweep/, including those inside functions."""
    return list(_imports())


def _imports() -> Iterator[Import]:
    for file in sorted(PACKAGE.rglob("*.py")):
        here = file.relative_to(PACKAGE)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            for module in _modules(node):
                yield Import(
                    here.parts[0].removesuffix(".py"), f"peftsweep/{here}:{getattr(node, 'lineno', 0)}", module
                )


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    assert node.level == 0 and node.module, "relative imports hide the floor"
    if node.module != "peftsweep":
        return [node.module]
    return [f"peftsweep.{alias.name}" for alias in node.names]


def is_ours(found: Import) -> bool:
    return found.module.partition(".")[0] == "peftsweep"


def test_every_file_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or _is_package(path)}
    assert rooms <= FLOORS.keys(), f"give them a floor in {Path(__file__).name}: {sorted(rooms - FLOORS.keys())}"


def test_files_are_short() -> None:
    lengths = {
        path.relative_to(PACKAGE): path.read_text(encoding="utf-8").count("\n") for path in PACKAGE.rglob("*.py")
    }
    assert lengths[Path("engine/pack.py")] < 150
    assert {path: length for path, length in lengths.items() if length > 350} == {}


def test_the_architecture_page_has_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = {
        name: int(floor)
        for floor, files in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)(?:\.py|/)`", files)
    }
    assert drawn == {name: floor for name, floor in FLOORS.items() if not name.startswith("__")}


def _is_package(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.py"))


def test_imports_go_down_only() -> None:
    upward = [
        f"{found.place}: {found.room} (floor {FLOORS[found.room]}) imports {found.module}"
        for found in imports()
        if is_ours(found)
        and room(found.module) != found.room
        and FLOORS.get(room(found.module), 12) >= FLOORS[found.room]
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("library", ONLY)
def test_a_library_is_imported_only_where_it_is_allowed(library: str) -> None:
    strangers = [
        f"{found.place}: {library} is for {' and '.join(sorted(ONLY[library])) or 'nobody'}"
        for found in imports()
        if found.module.partition(".")[0] == library and found.room not in ONLY[library]
    ]
    assert not strangers, "\n".join(strangers)


def test_the_engine_knows_no_study_and_no_tracker() -> None:
    rooms = {room(found.module) for found in imports() if found.room == "engine" and is_ours(found)}
    assert rooms <= {"engine", "layers", "methods", "models", "task", "config", "errors", "system", "trial_state"}


def test_every_import_is_a_named_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["ray"]]
    named = {_plain(re.split(r"[\[<>=!~]", name)[0]) for name in names}
    homes = importlib.metadata.packages_distributions()
    libraries = {found.module.partition(".")[0] for found in imports() if not is_ours(found)}
    libraries -= sys.stdlib_module_names | BROUGHT_BY_TORCH
    needed = {library: {_plain(home) for home in homes.get(library, [library])} for library in libraries}
    assert {library for library, home in needed.items() if not home & named} == set()
    assert named - USED_BY_OTHERS - set().union(*needed.values()) == set(), "named, but nothing imports it"


def _plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


# Optuna's own interface of a storage. It has attributes and states of any study, and knows none of them.
STORAGE_IN_MEMORY = {"storage/leased_storage.py", "storage/leased_study.py"}


def test_attributes_are_read_and_written_in_one_file_and_their_tables_in_another() -> None:
    words = re.compile(r"\b(user_attrs?|system_attrs?|set_user_attr|get_\w+_attrs)\b")
    assert _files_with(words) - STORAGE_IN_MEMORY == {"storage/attributes.py"}
    assert _files_with(re.compile(r"(user|system)_attributes")) == {"storage/attribute_tables.py"}, "its tables"


def test_optuna_s_states_are_translated_in_one_file() -> None:
    """The other file that uses these states calls Optuna: a study that leaves out trials."""
    imported = re.compile(r"from optuna\.trial import .*\bTrialState\b|optuna\.trial\.TrialState")
    assert _files_with(imported) - STORAGE_IN_MEMORY == {"storage/optuna_states.py", "storage/stored_study.py"}


def _files_with(words: re.Pattern[str]) -> set[str]:
    files = sorted(PACKAGE.rglob("*.py"))
    return {str(file.relative_to(PACKAGE)) for file in files if words.search(file.read_text(encoding="utf-8"))}


def test_one_file_prints_all_text_and_makes_it_harmless() -> None:
    """`peftsweep.system.terminal` prints lines, and `peftsweep.progress.screen` what rich draws."""
    strangers = []
    for file in sorted(PACKAGE.rglob("*.py")):
        here = str(file.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.endswith((".stdout.write", ".stderr.write", "echo")) or called in ("print", "Console"):
                strangers.append(f"{here}:{node.lineno}: {called}")
    assert {stranger.partition(":")[0] for stranger in strangers} == {"system/terminal.py"}, strangers


def test_only_its_own_files_name_a_method() -> None:
    """This covers code and messages. Docstrings may name methods, because they are for people."""
    own = ("methods/", "config/hyperparameters/")
    files = {str(file.relative_to(PACKAGE)): file for file in sorted(PACKAGE.rglob("*.py"))}
    strangers = [
        f"{here}: {text}"
        for here, file in files.items()
        if not here.startswith(own)
        for text in _words(ast.parse(file.read_text(encoding="utf-8")))
        if re.search(r"(?<![a-z])q?lora|(?<![a-z])ia3", text, re.IGNORECASE)
    ]
    assert not strangers, "\n".join(strangers)


def test_only_its_own_files_read_a_hyperparameter_of_a_method() -> None:
    """Look for hyperparameters that only some methods have, as attributes of anything."""
    some = {name for spec in SPECS.values() for name in spec.hyperparameters.model_fields}
    strangers = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if not str(file.relative_to(PACKAGE)).startswith(("methods/", "config/hyperparameters/"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in some
    ]
    assert not strangers, "\n".join(strangers)


def _words(tree: ast.AST) -> Iterator[str]:
    """Names, and strings other than docstrings."""
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "module"):
            if isinstance(name := getattr(node, field, None), str):
                yield name
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not in_circles(sources())


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("peftsweep.engine.slot", "from peftsweep.engine import Pack"),  # through the package's __init__
        ("peftsweep.engine.slot", "from peftsweep.engine import *"),
        ("peftsweep.engine.slot", "import peftsweep.engine"),
        ("peftsweep.engine.slot", "from peftsweep.engine import pack"),
        ("peftsweep.engine.slot", "from peftsweep.engine.pack import Pack"),
        ("peftsweep.engine.slot", "if TYPE_CHECKING:\n    from peftsweep.engine import Pack"),
        ("peftsweep.engine.slot", "def late():\n    from peftsweep.engine import Pack"),
        (
            "peftsweep.config.frozen",
            "from peftsweep.config.hyperparameters.zero import x",
        ),  # through another package's __init__
        ("peftsweep.scores", "import peftsweep.scores"),
    ],
)
def test_a_circle_of_any_kind_is_found(module: str, line: str) -> None:
    tree = sources()
    assert module in in_circles(tree | {module: f"{line}\n{tree[module]}"})


def in_circles(tree: dict[str, str]) -> set[str]:
    """Files that are in a circle of imports or import such a file. Imports for the type checker and inside functions
    count too."""
    waiting = {module: _needs(module, text, frozenset(tree)) for module, text in tree.items()}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    return set(waiting)


def sources() -> dict[str, str]:
    """The package's files by module. As in FLOORS, its version counts as a file that imports nothing."""
    files = {_module(path): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    return files | {"peftsweep.__version__": ""}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _needs(module: str, text: str, tree: frozenset[str]) -> set[str]:
    """The modules that a file imports. An import also runs each package above the module it names, except those that
    contain the file, because these are running already."""
    named = {name for node in ast.walk(ast.parse(text)) for name in _targets(node, tree)}
    above = {".".join(parts[:n]) for name in named if (parts := name.split(".")) for n in range(1, len(parts))}
    return (named | {package for package in above if not f"{module}.".startswith(f"{package}.")}) & tree


def _targets(node: ast.AST, tree: frozenset[str]) -> list[str]:
    """The modules that an import names: `from a.b import c` names a.b.c if that is a file, else a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [name if (name := f"{node.module}.{alias.name}") in tree else node.module for alias in node.names]
    return []
