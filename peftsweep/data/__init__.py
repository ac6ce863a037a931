"""Texts and labels: they are read, checked, split and tokenised once for each study."""

from __future__ import annotations

from peftsweep.data.dataset import Dataset, Split, is_on_hub, load
from peftsweep.data.decoding import TextFormat
from peftsweep.data.early_checks import find_mistakes
from peftsweep.data.files import FORMATS, read_table
from peftsweep.data.label_spelling import is_valid_unicode
from peftsweep.data.parquet_files import read_arrow_table
from peftsweep.data.row_filters import with_checked_texts
from peftsweep.data.table import Table

__all__ = [
    "FORMATS",
    "Dataset",
    "Split",
    "Table",
    "TextFormat",
    "find_mistakes",
    "is_on_hub",
    "is_valid_unicode",
    "load",
    "read_arrow_table",
    "read_table",
    "with_checked_texts",
]
