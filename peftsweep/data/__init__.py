"""Texts and labels: read, checked, split and tokenised, once per study."""

from __future__ import annotations

from peftsweep.data.dataset import Dataset, Split, load
from peftsweep.data.table import missing_columns

__all__ = ["Dataset", "Split", "load", "missing_columns"]
