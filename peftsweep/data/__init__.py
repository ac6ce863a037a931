"""Texts and labels: read, checked, split and tokenised, once per study."""

from __future__ import annotations

from peftsweep.data.dataset import Dataset, Split, load
from peftsweep.data.reading import FORMATS, Form, read
from peftsweep.data.rows import with_texts
from peftsweep.data.table import Table

__all__ = ["FORMATS", "Dataset", "Form", "Split", "Table", "load", "read", "with_texts"]
