"""The section `data` of a study file: where texts and labels are, how they are written, which rows are for what."""

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
    """Rows to keep, by one column of the source."""

    min: float | None = None
    """Keep rows whose number is at least this. Rows without a number there are left out."""
    max: float | None = None
    """Keep rows whose number is at most this."""
    equals: str | bool | int | float | None = None
    """Keep rows with this value: a text, a number, true or false, which a file may spell as it may a class."""

    def _mistakes(self) -> Iterator[Mistake]:
        if self.min is None and self.max is None and self.equals is None:
            yield (), "keeps every row; give min, max or equals"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield ("min",), f"min must not be above max, got min={self.min:g}, max={self.max:g}"


def _size(value: int | float) -> int | float:
    if (value < 1) if isinstance(value, int) else not 0 < value < 1:
        raise Mistakes([((), f"expected a number of rows, or a fraction between 0 and 1, got {value}")])
    return value


Rows = Annotated[int | float, AfterValidator(_size)]


class SplitConfig(Frozen):
    """How one source is cut into splits, stratified by label. Sizes are rows (whole numbers) or fractions below 1."""

    train: Rows | None = None
    """Rows for training; without it, what the other splits leave."""
    validation: Rows = 0.1
    """Rows by which trials are compared."""
    test: Rows | None = None
    """Rows for one last score of the best trial; without it, there is no test split."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Another seed is another cut."""

    def _mistakes(self) -> Iterator[Mistake]:
        total = sum(size for size in (self.train, self.validation, self.test) if isinstance(size, float))
        if total > 1 + 1e-9 or (total > 1 - 1e-9 and self.train is None):
            yield (), f"the fractions add up to {total:g}; they must leave rows for training"


class LabelColumn(Frozen):
    """One column that holds all labels of a text (multi-label). An empty cell is a text without labels."""

    column: str = Field(min_length=1)
    """The column."""
    separator: str | None = None
    """What parts the labels in a cell that is a text, such as `";"`; spaces around them are dropped. Without it, each
    cell must be a list: of JSONL or Parquet, or written out as `['joy', 'anger']` or `[joy, anger]`."""
    grouped: bool = False
    """Whether a text stands in a row for each of its labels. Its rows become one, with all labels that they have."""

    def _mistakes(self) -> Iterator[Mistake]:
        if self.separator == "":
            yield ("separator",), "expected some text, or no such key if the column holds lists"


LabelNames = Annotated[
    Annotated[str | Annotated[list[str], Strict(False)], Tag("columns")] | Annotated[LabelColumn, Tag("column of all")],
    Discriminator(lambda labels: "column of all" if isinstance(labels, Mapping | LabelColumn) else "columns"),
]


class DataConfig(Frozen):
    """Texts and labels. Either `source` (cut by `split`, or a hub dataset's splits), or `train` and `validation`."""

    source: str | None = None
    """One file (CSV, TSV, JSONL, Parquet, or `package://module/path`) to be cut, or `hub://owner/name`."""
    train: str | None = None
    """A file of rows for training, in place of `source`."""
    validation: str | None = None
    """A file of rows by which trials are compared. Without it, they are cut from `train`."""
    test: str | None = None
    """A file of rows for one last score of the best trial. It steers nothing."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    subset: str | None = None
    """Which of a hub dataset's subsets, if it has several."""
    text: str = Field(min_length=1)
    """The column of texts."""
    labels: LabelNames
    """One column of classes (single-label), several columns of 0 and 1 (multi-label), or one column that holds all
    labels of a text: `{column: emotions, separator: ";"}` (multi-label)."""
    encoding: str = "utf-8"
    """Encoding of CSV, TSV and JSONL files."""
    quoting: bool | None = None
    """Whether `"…"` holds a field together. By default it does in CSV and not in TSV."""
    max_length: int = Field(default=128, ge=2)
    """Tokens at which a text is cut. The base may have a limit of its own, which it must not exceed."""
    filter: dict[str, Filter] = Field(default={})
    """Rows of the source to keep, by column: `{confidence: {min: 0.9}}`."""
    drop_duplicates: bool = False
    """Keep only the first row of each text."""
    split: SplitConfig | None = None
    """How `source` is cut (of a hub dataset, its training split), or `train` if there is no `validation`."""

    @property
    def single_label(self) -> bool:
        """Whether each text has one of the classes of one column, unless that turns out to hold lists."""
        return len(self.label_columns) == 1 and not isinstance(self.labels, LabelColumn)

    @property
    def label_columns(self) -> list[str]:
        if isinstance(self.labels, LabelColumn):
            return [self.labels.column]
        return [self.labels] if isinstance(self.labels, str) else list(self.labels)

    @property
    def name(self) -> str:
        """What a person would call this data: the hub dataset's name, or the file's."""
        where = self.source or self.train or ""
        if where.startswith("hub://"):
            return where.rsplit("/", 1)[-1]
        path = Path(where)
        folder = path.absolute().parent.name
        return f"{folder}/{path.stem}" if path.stem in ("train", "data") and folder else path.stem

    def _mistakes(self) -> Iterator[Mistake]:
        if self.source is None and self.train is None:
            absent = "no source: give `source`, or `train` (and `validation`)"
            yield ((), absent) if self.validation is None else (("validation",), "needs a file for `train` beside it")
        if self.source is not None:
            for name in ("train", "validation"):
                if getattr(self, name) is not None:
                    yield (name,), "give either `source`, or files for `train` and `validation`, not both"
        if not is_text_encoding(self.encoding):
            yield ("encoding",), f"{quoted(self.encoding)} is no encoding of text; utf-8, latin-1 or mac_roman are some"
        for name in ("revision", "subset"):
            if getattr(self, name) is not None and not (self.source or "").startswith("hub://"):
                yield (name,), "only a hub dataset (source: hub://owner/name) has one"
        if self.split is not None and self.train is not None and self.validation is not None:
            yield ("split",), "nothing is left to cut: train and validation are files of their own"
        if self.split is not None and self.split.test is not None and self.test is not None:
            yield ("split", "test"), "data.test is a file of its own; keep one of them"
        labels = self.label_columns
        if not labels or not all(labels):
            yield ("labels",), "name the label column, or several 0/1 columns"
        for i, label in enumerate(labels):
            if label in labels[:i]:
                yield ("labels", i), f"{word(label)} is named twice"
            if label == self.text:
                yield ("labels", i) if len(labels) > 1 else ("labels",), f"{word(label)} is the text column"
