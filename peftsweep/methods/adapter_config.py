"""What may stand in an adapter's adapter_config.json? (adapter_files.py writes it.)"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]  # of a layer: peft takes some for patterns


class AdapterFile(BaseModel):
    """The keys that every method writes; a method adds its own.

    peft has three dozen more, which take code, patterns that may never end, or copies of layers: all of those must have
    peft's defaults.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: str
    task_type: Literal["SEQ_CLS"]
    target_modules: Annotated[list[Name], Field(min_length=1)]
    modules_to_save: list[Name] | None = None
    inference_mode: bool = True
    base_model_name_or_path: str | None = None
    revision: str | None = None
    peft_version: str | None = None

    @property
    def rank(self) -> int:
        """No side of the largest weight may be shorter."""
        return 1
