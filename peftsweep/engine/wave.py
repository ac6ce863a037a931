"""One pass of a step, as it travels to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from peftsweep.engine.rows import Rows
from peftsweep.methods import Masks


@dataclass(frozen=True)
class Wave:
    """Some texts of k slots with their labels and weights, and the keys of the slots' dropout.

    All its tensors lie in the rows' buffer (but what attention over padded batches takes), so that the same pass can
    read them from another one.
    """

    rows: Rows
    keys: Mapping[int, tuple[int, int]]

    @property
    def labels(self) -> Tensor:
        """[k·n, C] float32, or [k·n] int64."""
        labels = self.rows.more["labels"]
        return labels if labels.is_floating_point() else labels.long()

    @property
    def weights(self) -> Tensor:
        """[k·n] float32: one over the slot's whole batch; nought where there is no text."""
        whole = self.rows.more["whole"]
        return (whole > 0) / whole.clamp(min=1)

    @property
    def masks(self) -> Masks:
        return Masks(self.keys, self.rows.more["keep"], self.rows.more["seeds"])

    @property
    def shape(self) -> Any:
        """Equal for passes that differ in their numbers alone."""
        return self.rows.cargo.layout, self.rows.longest

    @property
    def size(self) -> int:
        """Tokens, the fillers too."""
        return self.rows.input_ids.shape[1]

    def over(self, buffer: Tensor) -> Wave:
        """The same pass, read from another buffer."""
        return replace(self, rows=self.rows.over(buffer))
