"""Where is the file of a study, given its name or path?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftsweep.errors import UsageError
from peftsweep.safe_text.quoting import PATH, quoted, word
from peftsweep.system import plain_files
from peftsweep.system.suggest import nearest


def folders_of_studies() -> list[Path]:
    """`sweeps/` in the working folder, then the package's own (in a source tree, the one beside the package)."""
    package = Path(__file__).parents[1]
    inside = package / "sweeps"
    return [Path("sweeps"), inside if inside.is_dir() else package.parent / "sweeps"]


def available(folders: Sequence[Path] | None = None) -> list[str]:
    """The names of all studies that can be found, sorted."""
    places = folders_of_studies() if folders is None else folders
    return sorted({file.stem for folder in places for file in Path(folder).glob("*.yaml")})


def find(study: str | Path, folders: Sequence[Path] | None = None) -> Path:
    """The file of a study, given its name (the first folder that has it wins) or its path.

    Raises:
        UsageError: there is no such file; the message suggests similar names.
    """
    name, given = str(study), Path(study)
    try:
        if name.startswith("~") and not given.exists():  # a file may really be called ~.yaml
            given = given.expanduser()
        if isinstance(study, Path) or given.name != name or given.suffix in (".yaml", ".yml"):
            if given.exists():
                plain_files.check(given)
                return given
            names = [str(file) for file in given.parent.glob("*.y*ml")] + available(folders)
            near = nearest(name, names) or nearest(given.stem, names)
            raise UsageError(
                f"no study file {word(name, PATH)}" + (f"; did you mean {word(near, PATH)}?" if near else "")
            )
        for folder in folders_of_studies() if folders is None else folders:
            file = Path(folder) / f"{name}.yaml"
            if file.exists():
                plain_files.check(file)
                return file
    except (OSError, RuntimeError, ValueError) as error:  # an impossible file name, the home of an unknown user
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"no study file {word(name, PATH)}: {why}") from None
    names = [word(name) for name in available(folders)]
    near = nearest(name, names)
    known = f"known studies: {', '.join(names)}" if names else "there is no sweeps/*.yaml in the working folder"
    raise UsageError(f"no study {quoted(name)}; " + (f"did you mean {near}? " if near else "") + known)
