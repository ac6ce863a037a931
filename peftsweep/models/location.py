"""Where is a base? At a hub id, in a folder, in a *.gguf file, or inside an installed package."""

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
from peftsweep.models.gguf import convert_gguf
from peftsweep.safe_text.quoting import PATH, shortened, word
from peftsweep.system import json_files, names, plain_files
from peftsweep.system.atomic_files import replaced
from peftsweep.system.leftovers import tidy
from peftsweep.system.package_paths import PACKAGE, packaged
from peftsweep.system.suggest import did_you_mean_file

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Source:
    """Where `from_pretrained` loads a base from."""

    name: str  # hub id or folder
    revision: str | None  # the commit, or the revision as given if the hub cannot be asked; None for a folder
    hub: bool


def message_prefix(config: ModelConfig) -> str:
    """The beginning of messages about a base: the key and its value."""
    return f"model.id: {word(config.id, PATH)}"


def locate(config: ModelConfig) -> Source:
    """Find the base. A GGUF file is converted into the cache first. Call it within `as_model_errors`.

    Raises:
        ModelError: there is nothing; the message says what to do.
    """
    if config.id.startswith(PACKAGE):
        return _local(_path_in_package(config.id), config)
    path = names.parse_path(config.id, "model.id", ModelError)
    looks_local = config.id.startswith(("/", ".", "~")) or config.id.count("/") > 1 or config.id.endswith(".gguf")
    if path.exists():
        return _local(path, config)
    if looks_local:
        raise ModelError(f"{message_prefix(config)} is not there{did_you_mean_file(path)}")
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
        raise ModelError(f"model.revision: {word(config.id, PATH)} is on this machine; only a hub model has revisions")
    if path.suffix == ".gguf" and not path.is_dir():
        try:
            plain_files.check(path)
        except ValueError as error:
            raise ModelError(f"{message_prefix(config)}: {error}") from error
        return Source(str(convert_gguf(path, cache_folder())), None, hub=False)
    if not (path / "config.json").is_file():
        if (path / ADAPTER).is_file():
            raise ModelError(adapter_without_base(config, path / ADAPTER))
        inside = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else []
        hint = f"; name its file: {word(f'{path.name}/{inside[0]}', PATH)}" if inside else ""
        raise ModelError(f"{message_prefix(config)} has no config.json: not a folder that transformers loads{hint}")
    return Source(str(path.resolve()), None, hub=False)


def adapter_without_base(config: ModelConfig, file: Path) -> str:
    """The message about a folder that holds an adapter without a base."""
    try:
        content = json_files.read(file)
    except (OSError, ValueError):
        content = None
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    named = f"its base, {word(base, PATH)}" if isinstance(base, str) and base else "its base"
    return f"{message_prefix(config)} is an adapter, not a base: give {named}, or merge the adapter into it"


def _path_in_package(place: str) -> Path:
    """A path inside a package, or the file that the package's `assemble` makes if it holds a GGUF file in parts."""
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
    """Whether the package is installed. Python also finds packages in the working folder, but to import one runs its
    code, which nobody chose to trust."""
    sites = [*site.getsitepackages(), site.getusersitepackages(), *sysconfig.get_paths().values()]
    return os.path.realpath(package.parent) in {os.path.realpath(folder) for folder in sites}


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return "0"
