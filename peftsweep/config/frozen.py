"""What all sections of a study file are: models that never change, and say all that is wrong within them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, model_validator

from peftsweep.config.wording import Mistake, Mistakes


class Frozen(BaseModel):
    # strict: `epochs: true` and `rank: "16"` are mistakes, not ones and sixteens
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _no_mistakes(self) -> Frozen:
        if found := list(self._mistakes()):
            raise Mistakes(found)
        return self

    def _mistakes(self) -> Iterator[Mistake]:
        """What is wrong between the fields, each of them being right by itself."""
        yield from ()
