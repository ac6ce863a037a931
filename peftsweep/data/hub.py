"""How is a dataset of the Hugging Face hub fetched? If it needs a script, from the hub's Parquet branch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftsweep.config import DataConfig
from peftsweep.data.table import Table, missing_columns
from peftsweep.errors import DataError, first_line
from peftsweep.safe_text.quoting import quoted, shortened

HUB = "hub://"
PARQUET_BRANCH = "refs/convert/parquet"
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
# Messages of datasets 5 about a dataset that needs a script; the second if the cache holds a dataset of that name.
SCRIPTED = ("scripts are no longer supported", "Couldn't find cache for")


def read_hub(config: DataConfig, wanted: Sequence[str], note: Callable[[str], object]) -> dict[str, Table]:
    """The dataset's own splits, by our names for them. A test split with secret labels is left out.

    Raises:
        DataError: there is no such dataset, subset or column, or no split for training; or the dataset is gated, or
            the hub cannot be reached.
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
            unreachable = isinstance(error, ConnectionError)  # the branch may still be in the cache
            if not unreachable and not any(text in str(error) for text in SCRIPTED):
                raise
            return load_dataset(_fetch_parquet_branch(name, config, local=unreachable), trust_remote_code=False)
    except DataError:
        raise
    except Exception as error:  # many kinds of errors, from HTTP to Arrow
        raise DataError(f"data.source: {config.source}: {_explain(error, name, config)}") from error


def _fetch_parquet_branch(name: str, config: DataConfig, *, local: bool) -> str:
    """The folder of a subset from the hub's Parquet branch, fetched into the cache (`local`: taken from the cache)."""
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
            f"data.source: {config.source}: it needs a script, which is not run, and there are no Parquet files at "
            f"revision {branch['revision']}; leave data.revision out"
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
        return f"it needs a script, which is not run, and the hub has no Parquet branch of it: see {page}"
    if isinstance(error, RevisionNotFoundError) or text.startswith("Revision"):
        return f"has no revision {quoted(config.revision)}; its revisions are listed at {page}/tree/main"
    if isinstance(error, DatasetNotFoundError):
        if "gated" in text:
            return f"gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
        return "no such dataset on the hub (or a private one). Check the spelling, or log in with `hf auth login`"
    if "BuilderConfig" in text or "Config name is missing" in text:
        return _no_subset(config, re.findall(r"'([^']*)'", text[text.find("[") : text.find("]")]))
    if "find any data file" in text or "any data files" in text:
        return "has no file of a supported format"
    return f"cannot be loaded: {type(error).__name__}: {first_line(error)}"


def _table(name: str, split: Any, wanted: Sequence[str]) -> Table:
    there = list(split.column_names)
    if any(column not in there for column in wanted):
        raise missing_columns(name, wanted, there)
    columns = {column: _column(name, column, split) for column in wanted}
    return Table(name, columns, list(range(1, len(split) + 1)))


def _column(name: str, column: str, split: Any) -> list[Any]:
    try:
        return _with_class_names(split.features[column], list(split[column]))
    except Exception as error:  # a type that Python lacks or that needs another library
        why = f"{type(error).__name__}: {shortened(first_line(error), 200)}"
        raise DataError(f"{name}: column {column} cannot be read: {why}") from error


def _with_class_names(feature: Any, values: list[Any]) -> list[Any]:
    """Class numbers replaced by their names if the dataset has names for them, also within lists."""
    names, inside = getattr(feature, "names", None), getattr(feature, "feature", None)
    if getattr(inside, "names", None):
        return [None if several is None else _with_class_names(inside, list(several)) for several in values]
    return [names[value] if isinstance(value, int) and value >= 0 else None for value in values] if names else values
