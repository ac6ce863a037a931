"""Draws the rows of a comparison as one HTML page, which has plotly.js in it and fetches nothing."""

from __future__ import annotations

from peftsweep.dashboard.page import is_page, only_of, page

__all__ = ["is_page", "only_of", "page"]
