"""Draws rows as one HTML page. It holds everything it needs, plotly.js included, and fetches nothing."""

from __future__ import annotations

from peftsweep.dashboard.page import is_page, only_of, page

__all__ = ["is_page", "only_of", "page"]
