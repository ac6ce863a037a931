"""Limits for values read from a database, whoever wrote them: commands add them up, draw them and print them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from peftsweep.config import EXACT, LARGEST, WORDS, plain

Text = Annotated[str, Field(max_length=WORDS)]
Value = Annotated[Any, AfterValidator(plain)]  # of a hyperparameter, or of what all trials share
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=EXACT)]
Moment = Annotated[int, Field(ge=0, lt=253_402_300_800_000)]  # milliseconds since 1970, before the year 10000
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]  # three centuries
