"""Datasets of the Hugging Face hub, and the parquet branch of those that were made by a script."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftsweep.config import DataConfig
from peftsweep.data.table import Table, missing_columns
from peftsweep.errors import DataError
from peftsweep.safe_text.quoting import quoted, shortened

HUB = "hub://"
PARQUET_BRANCH = "refs/convert/parquet"
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
# What datasets 5 says of a dataset that has a script; the second where its cache holds something of that name.
SCRIPTED = ("scripts are no longer supported", "Couldn't find cache for")


def read_hub(config: DataConfig, wanted: Sequence[str], note: Callable[[str], object]) -> dict[str, Table]:
    """The dataset's own splits, by our names for them, but for a test split whose labels are kept secret.

    Raises:
        DataError: no such dataset, subset or column; gated; the hub cannot be reached; no split for training.
    """
    assert config.source is not None
    found = _fetch(config.source.removeprefix(HUB), config)
    tables = {}
    for ours, theirs in SPLITS.items():
        split = next((split for split in theirs if split in found), None)
        if split is not None:
            tables[ours] = _table(f"{config.source} ({split})", found[split], wanted)
    if "train" not in tables:
        raise DataError(f"{config.source}: no split called train; it has {', '.join(found)}")
    if "test" in tables and all(
        value is None for name in config.label_columns for value in tables["test"].column(name)
    ):
        note(f"{tables.pop('test').name}: no row has a label: left out")
    return tables


def _fetch(name: str, config: DataConfig) -> Any:
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bar()
    disable_progress_bars()
    try:
        try:
            return load_dataset(name, name=config.subset, revision=config.revision, trust_remote_code=False)
        except (RuntimeError, ValueError, ConnectionError) as error:
            unreachable = isinstance(error, ConnectionError)  # then the branch may be in the hub's cache
            if not unreachable and not any(text in str(error) for text in SCRIPTED):
                raise
            return load_dataset(_fetch_parquet_branch(name, config, local=unreachable), trust_remote_code=False)
    except DataError:
        raise
    except Exception as error:  # a dozen kinds, from HTTP to Arrow
        raise DataError(f"data.source: {config.source}: {_explain(error, name, config)}") from error


def _fetch_parquet_branch(name: str, config: DataConfig, *, local: bool) -> str:
    """A subset's folder in the hub's parquet branch, fetched into the hub's cache (`local`: only looked up there)."""
    from huggingface_hub import list_repo_files, snapshot_download

    branch: dict[str, Any] = {"repo_id": name, "repo_type": "dataset", "revision": config.revision or PARQUET_BRANCH}
    if local:
        top = Path(snapshot_download(**branch, local_files_only=True))
        files = [path.relative_to(top).as_posix() for path in top.rglob("*.parquet")]
    else:
        files = [path for path in list_repo_files(**branch) if path.endswith(".parquet")]
    subsets = sorted({path.partition("/")[0] for path in files})
    if not subsets and local:
        raise ConnectionError
    if not subsets:
        raise DataError(
            f"data.source: {config.source}: made by a script, which is not run, and without Parquet files at revision "
            f"{branch['revision']}; leave data.revision out"
        )
    subset = config.subset or (subsets[0] if len(subsets) == 1 else "")
    if subset not in subsets:
        raise DataError(f"data.source: {config.source}: {_no_subset(config, subsets)}")
    return str(Path(snapshot_download(**branch, allow_patterns=f"{subset}/*", local_files_only=local)) / subset)


def _no_subset(config: DataConfig, subsets: Sequence[str]) -> str:
    which = f"has no subset {quoted(config.subset)}" if config.subset else "has several subsets"
    return f"{which}; name one of these as data.subset: {', '.join(subsets)}"


def _explain(error: Exception, name: str, config: DataConfig) -> str:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

    page, text = f"https://huggingface.co/datasets/{name}", str(error).strip()
    unreachable = isinstance(error, (ConnectionError, LocalEntryNotFoundError, OfflineModeIsEnabled))
    if name.count("/") > 1:
        return "expected hub://owner/name"
    if unreachable or type(error).__name__.startswith("Connect") or "Couldn't reach" in text:
        return (
            "not in the local cache, and the hub cannot be reached. Check the network, or name your own copy: "
            "--set data.train=train.tsv --set data.validation=dev.tsv"
        )
    if isinstance(error, RevisionNotFoundError) and config.revision is None:
        return f"made by a script, which is not run, and without the hub's parquet branch: see {page}"
    if isinstance(error, RevisionNotFoundError) or text.startswith("Revision"):
        return f"has no revision {quoted(config.revision)}; its revisions are listed at {page}/tree/main"
    if isinstance(error, DatasetNotFoundError):
        if "gated" in text:
            return f"gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        return "no such dataset on the hub (or a private one). Check the spelling, or log in with `hf auth login`"
    if "BuilderConfig" in text or "Config name is missing" in text:
        return _no_subset(config, re.findall(r"'([^']*)'", text[text.find("[") : text.find("]")]))
    if "find any data file" in text or "any data files" in text:
        return "holds no file of a format that is read"
    return f"cannot be loaded: {type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _table(name: str, split: Any, wanted: Sequence[str]) -> Table:
    there = list(split.column_names)
    if any(column not in there for column in wanted):
        raise missing_columns(name, wanted, there)
    columns = {column: _column(name, column, split) for column in wanted}
    return Table(name, columns, list(range(1, len(split) + 1)))


def _column(name: str, column: str, split: Any) -> list[Any]:
    try:
        return _with_class_names(split.features[column], list(split[column]))
    except Exception as error:  # of types that Python has not, or that take a library to read
        why = f"{type(error).__name__}: {shortened(str(error), 200)}".splitlines()[0]
        raise DataError(f"{name}: column {column} cannot be read: {why}") from error


def _with_class_names(feature: Any, values: list[Any]) -> list[Any]:
    """Class numbers by their names, where the dataset has names for them, in lists too."""
    names, inside = getattr(feature, "names", None), getattr(feature, "feature", None)
    if getattr(inside, "names", None):
        return [None if several is None else _with_class_names(inside, list(several)) for several in values]
    return [names[value] if isinstance(value, int) and value >= 0 else None for value in values] if names else values
