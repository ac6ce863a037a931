"""A study file's search in Optuna's terms: distributions, samplers, the pruner. No I/O of its own."""

from __future__ import annotations

from peftsweep.search.given import given
from peftsweep.search.grid import GridSampler, exhausted, grid, grid_size
from peftsweep.search.halving import Halving
from peftsweep.search.sampling import drawn, replicate_seed, sampler, trial_seed
from peftsweep.search.space import candidates, decode, described, distributions

__all__ = [
    "GridSampler",
    "Halving",
    "candidates",
    "decode",
    "described",
    "distributions",
    "drawn",
    "exhausted",
    "given",
    "grid",
    "grid_size",
    "replicate_seed",
    "sampler",
    "trial_seed",
]
