"""What do all sections of a study file have in common? They are immutable and report all their mistakes at once."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, model_validator

from peftsweep.config.messages import Mistake, Mistakes
from peftsweep.safe_text.quoting import quoted
from peftsweep.safe_text.secrets import carries_secret

HOLDS_SECRET = (
    "contains a password or a token, which would be stored in the studies' database, in MLflow and in every export; "
    "leave it out (log in to the hub with `hf auth login` or HF_TOKEN)"
)


class Frozen(BaseModel):
    # strict: `epochs: true` and `rank: "16"` are mistakes, not ones and sixteens
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="after")
    def _no_mistakes(self) -> Frozen:
        if found := [*self._secrets(), *self._limits(), *self._mistakes()]:
            raise Mistakes(found)
        return self

    def _secrets(self) -> Iterator[Mistake]:
        for name, value in self:
            for text in value if isinstance(value, list | tuple) else [value]:
                if isinstance(text, str) and carries_secret(text):
                    yield (name,), f"{quoted(text)} {HOLDS_SECRET}"

    def _limits(self) -> Iterator[Mistake]:
        """Which values are beyond what can be recorded."""
        yield from ()

    def _mistakes(self) -> Iterator[Mistake]:
        """What is wrong between the fields, when each field is valid by itself."""
        yield from ()
