"""Rows as one page: HTML that holds all it needs, plotly.js too, and asks no network for anything."""

from __future__ import annotations

from peftsweep.dashboard.page import is_page, only_of, page

__all__ = ["is_page", "only_of", "page"]
