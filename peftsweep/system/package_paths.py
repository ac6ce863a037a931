"""Which file in an installed package does `package://module/path` name?"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from peftsweep.errors import PeftsweepError
from peftsweep.safe_text.quoting import PATH, quoted, word
from peftsweep.system import names
from peftsweep.system.suggest import did_you_mean_file

PACKAGE = "package://"


def packaged(place: str, key: str, error: type[PeftsweepError]) -> Path:
    """The path that `package://module/path` names. The module is found but not run, so its imports need not exist.

    Args:
        key: the study file's key, for the message.
        error: raised if the package is not installed or has no such file, or if the path leads out of it.
    """
    module, _, inside = place.removeprefix(PACKAGE).partition("/")
    try:
        spec = importlib.util.find_spec(module) if module and "." not in module else None
    except (ImportError, OSError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    said = f"{key}: {word(place, PATH)}"
    if spec is not None and not folders:
        raise error(f"{said}: {quoted(module)} is a module of one file, and no package with files in it")
    if not folders:
        name = word(module.replace("_", "-"))
        raise error(f"{said}: the package {quoted(module)} is not installed; try: pip install {name}")
    if ".." in Path(inside).parts or Path(inside).is_absolute():
        raise error(f"{said}: {'/' if inside.startswith('/') else '..'} leads out of the package")
    path = names.check_path(Path(folders[0]) / inside, key, error)
    if not path.exists():
        raise error(f"{said}: the package has no {word(inside, PATH)}{did_you_mean_file(path)}")
    return path
