"""Where are the texts and labels, how are they written, and which rows are for what? The section `data` of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Discriminator, Field, Strict, Tag

from peftsweep.config.encoding import is_text_encoding
from peftsweep.config.frozen import Frozen
from peftsweep.config.messages import Mistake, Mistakes
from peftsweep.safe_text.quoting import quoted, word


class Filter(Frozen):
    """Which rows of the source to keep, by the value in one column."""

    min: float | None = None
    """Keep rows whose number is at least this. Rows without a number are dropped."""
    max: float | None = None
    """Keep rows whose number is at most this."""
    equals: str | bool | int | float | None = None
    """Keep rows with this value: a text, a number, true or false. Files may spell it in any way that they may spell a
    class."""

    def _mistakes(self) -> Iterator[Mistake]:
        if self.min is None and self.max is None and self.equals is None:
            yield (), "keeps every row; give min, max or equals"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield ("min",), f"min must not be above max, got min={self.min:g}, max={self.max:g}"


def _size(value: int | float) -> int | float:
    if (value < 1) if isinstance(value, int) else not 0 < value < 1:
        raise Mistakes([((), f"expected a number of rows, or a fraction between 0 and 1, got {value}")])
    return value


SplitSize = Annotated[int | float, AfterValidator(_size)]


class SplitConfig(Frozen):
    """How one source is split, stratified by label. Sizes are numbers of rows, or fractions below 1."""

    train: SplitSize | None = None
    """Rows for training. By default all rows that the other splits leave."""
    validation: SplitSize = 0.1
    """Rows on which trials are compared."""
    test: SplitSize | None = None
    """Rows for a final score of the best trial. By default there is no test split."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Seed of the random split."""

    def _mistakes(self) -> Iterator[Mistake]:
        total = sum(size for size in (self.train, self.validation, self.test) if isinstance(size, float))
        if total > 1 + 1e-9 or (total > 1 - 1e-9 and self.train is None):
            yield (), f"the fractions add up to {total:g}; they must leave rows for training"


class LabelColumn(Frozen):
    """One column that holds all labels of a text (multi-label). An empty cell means that the text has no labels."""

    column: str = Field(min_length=1)
    """The name of the column."""
    separator: str | None = None
    """What separates the labels in a cell, such as `";"`. Spaces around labels are dropped. Without a separator each
    cell must be a list: one of JSONL or Parquet, or text such as `['joy', 'anger']` or `[joy, anger]`."""
    grouped: bool = False
    """Whether a text has one row for each of its labels. These rows are merged into one with all the labels."""

    def _mistakes(self) -> Iterator[Mistake]:
        if self.separator == "":
            yield ("separator",), "expected some text; leave the key out if the column holds lists"


LabelNames = Annotated[
    Annotated[str | Annotated[list[str], Strict(False)], Tag("columns")] | Annotated[LabelColumn, Tag("column of all")],
    Discriminator(lambda labels: "column of all" if isinstance(labels, Mapping | LabelColumn) else "columns"),
]


class DataConfig(Frozen):
    """Texts and labels. Give either `source` (which `split` divides, or a hub dataset with splits), or `train` and
    `validation`."""

    source: str | None = None
    """One file to be split (CSV, TSV, JSONL, Parquet, or `package://module/path`), or `hub://owner/name`."""
    train: str | None = None
    """A file with the rows for training, instead of `source`."""
    validation: str | None = None
    """A file with the rows on which trials are compared. By default they are split off from `train`."""
    test: str | None = None
    """A file with the rows for a final score of the best trial. It influences no decision."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Which subset of a hub dataset to use, if it has several."""
    text: str = Field(min_length=1)
    """The column that holds the texts."""
    labels: LabelNames
    """One column of classes (single-label), several columns of 0 and 1 (multi-label), or one column that holds all
    labels of a text: `{column: emotions, separator: ";"}` (multi-label)."""
    encoding: str = "utf-8"
    """Encoding of CSV, TSV and JSONL files."""
    quoting: bool | None = None
    """Whether fields may be quoted (`"…"`). By default yes in CSV and no in TSV."""
    max_length: int = Field(default=128, ge=2)
    """Number of tokens after which texts are truncated. It must not exceed the limit of the base, if that has one."""
    filter: dict[str, Filter] = Field(default={})
    """Which rows of the source to keep, by column: `{confidence: {min: 0.9}}`."""
    drop_duplicates: bool = False
    """Keep only the first row of each text."""
    split: SplitConfig | None = None
    """How to split `source` (of a hub dataset, its training split), or `train` if there is no `validation`."""

    @property
    def single_label(self) -> bool:
        """Whether one column gives each text its class. (The column may still turn out to hold lists.)"""
        return len(self.label_columns) == 1 and not isinstance(self.labels, LabelColumn)

    @property
    def label_columns(self) -> list[str]:
        if isinstance(self.labels, LabelColumn):
            return [self.labels.column]
        return [self.labels] if isinstance(self.labels, str) else list(self.labels)

    @property
    def name(self) -> str:
        """A short name of the data for people: that of the hub dataset or of the file."""
        where = self.source or self.train or ""
        if where.startswith("hub://"):
            return where.rsplit("/", 1)[-1]
        path = Path(where)
        folder = path.absolute().parent.name
        return f"{folder}/{path.stem}" if path.stem in ("train", "data") and folder else path.stem

    def _mistakes(self) -> Iterator[Mistake]:
        if self.source is None and self.train is None:
            missing = "no source: give `source`, or `train` (and `validation`)"
            yield ((), missing) if self.validation is None else (("validation",), "needs a file for `train` too")
        if self.source is not None:
            for name in ("train", "validation"):
                if getattr(self, name) is not None:
                    yield (name,), "give either `source`, or files for `train` and `validation`, not both"
        if not is_text_encoding(self.encoding):
            yield (
                ("encoding",),
                f"{quoted(self.encoding)} is not a text encoding; expected one such as utf-8, latin-1 or mac_roman",
            )
        for name in ("revision", "subset"):
            if getattr(self, name) is not None and not (self.source or "").startswith("hub://"):
                yield (name,), "only a hub dataset (source: hub://owner/name) has one"
        if self.split is not None and self.train is not None and self.validation is not None:
            yield ("split",), "there is nothing to split: train and validation are separate files"
        if self.split is not None and self.split.test is not None and self.test is not None:
            yield ("split", "test"), "data.test already names a file; keep one of them"
        labels = self.label_columns
        if not labels or not all(labels):
            yield ("labels",), "name the label column, or several 0/1 columns"
        for i, label in enumerate(labels):
            if label in labels[:i]:
                yield ("labels", i), f"{word(label)} is named twice"
            if label == self.text:
                yield ("labels", i) if len(labels) > 1 else ("labels",), f"{word(label)} is the text column"
