"""Where a base is: a hub id, a folder, a *.gguf file, or a place inside an installed package."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import site
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError
from peftsweep.models.gguf import converted
from peftsweep.safe_text.quoting import PATH, shortened, word
from peftsweep.system import json_files, names, plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.leftovers import tidy
from peftsweep.system.package_paths import PACKAGE, packaged
from peftsweep.system.suggest import did_you_mean_file

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` takes."""

    name: str  # hub id or folder
    revision: str | None  # the commit, or as it was given where the hub cannot be asked; None for a folder
    hub: bool


def called(config: ModelConfig) -> str:
    """How messages begin that are about a base."""
    return f"model.id: {word(config.id, PATH)}"


def locate(config: ModelConfig) -> Source:
    """Find the base; a GGUF file is converted into the cache when it is new there. To be asked within `faults.told`.

    Raises:
        ModelError: nothing is there, with what to do about it.
    """
    if config.id.startswith(PACKAGE):
        return _local(_packaged(config.id), config)
    path = names.parse_path(config.id, "model.id", ModelError)
    looks_local = config.id.startswith(("/", ".", "~")) or config.id.count("/") > 1 or config.id.endswith(".gguf")
    if path.exists():
        return _local(path, config)
    if looks_local:
        raise ModelError(f"{called(config)} is not there{did_you_mean_file(path)}")
    from transformers.utils.hub import resolve_revision

    # The commit, not a branch: with `main`, transformers asks a service to convert a base without safetensors.
    revision = resolve_revision(config.id, config.revision)
    return Source(config.id, getattr(revision, "resolved", revision), hub=True)


def cache_folder() -> Path:
    """PEFTSWEEP_CACHE, or `peftsweep` in the user's cache folder."""
    own = os.environ.get("PEFTSWEEP_CACHE")
    if own:
        return names.parse_path(own, "PEFTSWEEP_CACHE", ModelError)
    return names.parse_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME", ModelError) / "peftsweep"


def _local(path: Path, config: ModelConfig) -> Source:
    if config.revision is not None:
        raise ModelError(
            f"model.revision: {word(config.id, PATH)} lies on this machine; only a model of the hub has revisions"
        )
    if path.suffix == ".gguf" and not path.is_dir():
        try:
            plain_files.check(path)
        except ValueError as error:
            raise ModelError(f"{called(config)}: {error}") from error
        return Source(str(converted(path, cache_folder())), None, hub=False)
    if not (path / "config.json").is_file():
        if (path / ADAPTER).is_file():
            raise ModelError(only_an_adapter(config, path / ADAPTER))
        inside = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else []
        hint = f"; name its file: {word(f'{path.name}/{inside[0]}', PATH)}" if inside else ""
        raise ModelError(f"{called(config)} has no config.json: not a folder that transformers loads{hint}")
    return Source(str(path.resolve()), None, hub=False)


def only_an_adapter(config: ModelConfig, file: Path) -> str:
    """What to say of a folder without a base."""
    try:
        said = json_files.read(file)
    except (OSError, ValueError):
        said = None
    base = said.get("base_model_name_or_path") if isinstance(said, dict) else None
    named = f"its base, {word(base, PATH)}" if isinstance(base, str) and base else "its base"
    return f"{called(config)} is an adapter, and no base: give {named}, or merge the adapter into it"


def _packaged(place: str) -> Path:
    """A path in a package; of a package that carries its GGUF file in parts, the file that its `assemble` joins."""
    path = packaged(place, "model.id", ModelError)
    name = place.removeprefix(PACKAGE).rstrip("/")
    if "/" in name or (path / "config.json").is_file():
        return path
    if not _is_installed(path):
        raise ModelError(
            f"model.id: {word(place, PATH)}: {word(str(path), PATH)} is not among Python's installed packages, and its "
            "code is not run; install it, or name a folder or a file in it that is a base"
        )
    module = importlib.import_module(name)
    if not hasattr(module, "assemble"):
        return path
    joined = cache_folder() / "parts" / f"{name}-{_version(name)}.gguf"
    tidy(joined)
    if not joined.exists():
        joined.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replaced(joined) as file:
                module.assemble(file)
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"model.id: {word(place, PATH)}: its parts could not be joined into {joined}: {shortened(str(error))}"
            ) from error
    return joined


def _is_installed(package: Path) -> bool:
    """Whether a package is one that was installed. Python also finds one in the working folder, whose code may be
    anybody's, and importing it runs it."""
    sites = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    return os.path.realpath(package.parent) in {os.path.realpath(folder) for folder in sites}


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "0"
