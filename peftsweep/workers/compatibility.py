"""Do the base, its tokenizer and the study's data fit together? Checked before a pack is built."""

from __future__ import annotations

from peftsweep.config import StudyConfig
from peftsweep.data import Dataset
from peftsweep.errors import ModelError
from peftsweep.models import Base, check_supported, longrope_window, max_text_tokens
from peftsweep.safe_text.quoting import quoted


def check_fit(base: Base, config: StudyConfig, data: Dataset) -> None:
    """
    Raises:
        ModelError: the base cannot be trained, texts may be too long for it, or a text has a token that it lacks.
    """
    check_supported(base.model)
    name, most, longest = config.model.id, config.data.max_length, max_text_tokens(base.model)
    if longest is not None and most > longest:
        raise ModelError(
            f"data.max_length: {most} is above the {longest} positions of {name}; set it to {longest} or less"
        )
    window = longrope_window(base.model)
    if window is not None and most > window:
        raise ModelError(
            f"data.max_length: {most}: a text of more than {window} tokens would change how {name} reads the shorter "
            f"texts in its batch (longrope); set it to {window} or less"
        )
    known = base.model.get_input_embeddings().weight.shape[0]
    for key, split in {"train": data.train, "validation": data.validation, "test": data.test}.items():
        beyond = [i for i, ids in enumerate(() if split is None else split.input_ids) if ids.max() >= known]
        if split is not None and beyond:
            raise ModelError(
                f"model.id: {name}: its tokenizer produces tokens outside its vocabulary of {known:,}, in "
                f"{len(beyond):,} texts of the {key} split; the first is "
                f"{quoted(split.texts[beyond[0]])}. Use the base's own tokenizer"
            )
