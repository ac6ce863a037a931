"""What do all hyperparameters have in common? Their values are recorded with each trial."""

from __future__ import annotations

from collections.abc import Iterator

from peftsweep.config.frozen import Frozen
from peftsweep.config.messages import Mistake
from peftsweep.config.recordable_values import recordable


class RecordableHyperparameters(Frozen):
    """Hyperparameters. What cannot be recorded is a mistake, since no command could read the study any more."""

    def _limits(self) -> Iterator[Mistake]:
        for name, value in self:
            try:
                recordable(value)
            except ValueError as error:
                yield (name,), str(error)
