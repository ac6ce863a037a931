"""Datasets of the Hugging Face hub, and the parquet branch of those that were made by a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftsweep.config import DataConfig
from peftsweep.data.table import Table, missing_columns
from peftsweep.errors import DataError

HUB = "hub://"
PARQUET_BRANCH = "refs/convert/parquet"
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def read_hub(config: DataConfig, wanted: Sequence[str]) -> dict[str, Table]:
    """The dataset's own splits, by our names for them.

    Raises:
        DataError: no such dataset, subset or column; gated; the hub cannot be reached; no split for training.
    """
    assert config.source is not None
    name = config.source.removeprefix(HUB)
    found = _fetched(name, config)
    tables = {}
    for ours, theirs in SPLITS.items():
        split = next((split for split in theirs if split in found), None)
        if split is not None:
            tables[ours] = _table(f"{config.source} ({split})", found[split], wanted)
    if "train" not in tables:
        raise DataError(f"{config.source}: no split called train; it has {', '.join(found)}")
    return tables


def _fetched(name: str, config: DataConfig) -> Any:
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        try:
            return load_dataset(name, name=config.subset, revision=config.revision)
        except RuntimeError as error:  # «Dataset scripts are no longer supported»
            if "script" not in str(error):
                raise
            return load_dataset(name, revision=config.revision or PARQUET_BRANCH, data_dir=config.subset)
    except Exception as error:  # a dozen kinds, from HTTP to Arrow
        raise DataError(f"data.source: {config.source}: {_explained(error, name, config)}") from error


def _explained(error: Exception, name: str, config: DataConfig) -> str:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import OfflineModeIsEnabled

    page, text = f"https://huggingface.co/datasets/{name}", str(error).strip()
    offline = isinstance(error, (ConnectionError, OfflineModeIsEnabled)) or "offline" in text.lower()
    if offline or "Couldn't reach" in text or "Connection" in type(error).__name__:
        return (
            "not in the local cache, and the hub cannot be reached. Check the network, or name your own copy: "
            "--set data.train=train.tsv --set data.validation=dev.tsv"
        )
    if isinstance(error, DatasetNotFoundError):
        if "gated" in text:
            return f"gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        return "no such dataset on the hub (or a private one). Check the spelling, or log in with `hf auth login`"
    if "BuilderConfig" in text or "Config name is missing" in text:
        return f"data.subset: {config.subset!r} is none of its subsets: {text.splitlines()[0]}"
    return f"cannot be loaded: {type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _table(name: str, split: Any, wanted: Sequence[str]) -> Table:
    there = list(split.column_names)
    if any(column not in there for column in wanted):
        raise missing_columns(name, wanted, there)
    columns = {column: _named(split.features[column], list(split[column])) for column in wanted}
    return Table(name, columns, list(range(1, len(split) + 1)))


def _named(feature: Any, values: list[Any]) -> list[Any]:
    """Class numbers by their names, where the dataset has names for them."""
    names = getattr(feature, "names", None)
    return [names[value] if isinstance(value, int) and value >= 0 else None for value in values] if names else values
