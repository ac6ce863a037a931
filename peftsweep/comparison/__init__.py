"""Which study is best, by how much, how surely, at what cost? The answers are plain rows; `dashboard` draws them."""

from __future__ import annotations

from peftsweep.comparison.comparing import Comparison, compare
from peftsweep.comparison.groups import Group, Pair
from peftsweep.comparison.history import History
from peftsweep.comparison.leaderboard import Leader

__all__ = ["Comparison", "Group", "History", "Leader", "Pair", "compare"]
