"""A study file's search in Optuna's terms: distributions, samplers, the pruner. No I/O of its own."""

from __future__ import annotations

from peftsweep.study.enqueued import given
from peftsweep.study.grid import GridSampler, exhausted, grid, grid_size, total
from peftsweep.study.ledger import Ledger
from peftsweep.study.pruner import Halving
from peftsweep.study.samplers import drawn, replicate_seed, sampler, trial_seed
from peftsweep.study.space import candidates, decode, described, distributions

__all__ = [
    "GridSampler",
    "Halving",
    "Ledger",
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
    "total",
    "trial_seed",
]
