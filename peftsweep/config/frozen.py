"""What all sections of a study file are: models that never change, and say all that is wrong within them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, model_validator

from peftsweep.config.messages import Mistake, Mistakes
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import carries_secret

KEPT = (
    "has a password or a token in it, which would be kept with the study, in its database, MLflow and every export; "
    "leave it out (`hf auth login` or HF_TOKEN log in to the hub)"
)


class Frozen(BaseModel):
    # strict: `epochs: true` and `rank: "16"` are mistakes, not ones and sixteens
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _no_mistakes(self) -> Frozen:
        if found := [*self._secrets(), *self._mistakes()]:
            raise Mistakes(found)
        return self

    def _secrets(self) -> Iterator[Mistake]:
        for name, value in self:
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and carries_secret(text):
                    yield (name,), f"{quoted(text)} {KEPT}"

    def _mistakes(self) -> Iterator[Mistake]:
        """What is wrong between the fields, each of them being right by itself."""
        yield from ()
