"""Rows as one page: HTML that holds all it needs, plotly.js too, and asks no network for anything."""

from __future__ import annotations

from peftsweep.dashboard.page import page

__all__ = ["page"]
