"""Limits for values read from a database, whoever wrote them: commands add them up, draw them and print them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from peftsweep.config import MAX_CHARACTERS, MAX_NUMBER, MAX_WHOLE_NUMBER, recordable

Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
Value = Annotated[Any, AfterValidator(recordable)]  # of a hyperparameter, or of what all trials share
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=MAX_WHOLE_NUMBER)]
Moment = Annotated[int, Field(ge=0, lt=253_402_300_800_000)]  # milliseconds since 1970, before the year 10000
Seconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]  # three centuries
