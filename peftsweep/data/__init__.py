"""Texts and labels: read, checked, split and tokenised, once per study."""

from __future__ import annotations

from peftsweep.data.arrow import arrow_table
from peftsweep.data.checking import mistakes
from peftsweep.data.dataset import Dataset, Split, load
from peftsweep.data.decoding import Form
from peftsweep.data.reading import FORMATS, read
from peftsweep.data.rows import with_texts
from peftsweep.data.spelling import is_whole
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
