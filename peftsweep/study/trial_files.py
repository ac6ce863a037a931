"""Where the files of a study and of its complete trials are, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from peftsweep.system import plain_files

if TYPE_CHECKING:
    from peftsweep.task import Labels, Logits

# In a complete trial's folder:
ADAPTER = "adapter"
PREDICTIONS = "predictions.safetensors"  # logits [n, C] and labels of the validation rows
CLASSES = "per_class.json"  # precision, recall, F1 of each label
# In a study's folder:
VALIDATION = "validation.safetensors"  # token ids of the validation rows


def trial_folder(study: Path, number: int) -> Path:
    """Folder of a trial's artifacts, inside its study's folder."""
    return study / f"trial-{number:04d}"


def predictions(folder: Path) -> tuple[Logits, Labels]:
    """Logits [n, C] of the validation rows at a trial's best evaluation, and their labels."""
    found = arrays(folder / PREDICTIONS)
    return found["logits"], found["labels"]


def arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays in a safetensors file.

    Raises:
        OSError, SafetensorError, ValueError: it cannot be read.
    """
    from safetensors.numpy import load_file

    plain_files.check(file)
    return load_file(file)
