"""Texts and labels: read, checked, split and tokenised, once per study."""

from __future__ import annotations

from peftsweep.data.checks import mistakes
from peftsweep.data.dataset import Dataset, Split, load
from peftsweep.data.decoding import Form
from peftsweep.data.files import FORMATS, read
from peftsweep.data.label_spelling import is_whole
from peftsweep.data.parquet_files import arrow_table
from peftsweep.data.row_filters import with_texts
from peftsweep.data.table import Table

__all__ = [
    "FORMATS",
    "Dataset",
    "Form",
    "Split",
    "Table",
    "arrow_table",
    "is_whole",
    "load",
    "mistakes",
    "read",
    "with_texts",
]
