"""How is a base loaded from a GGUF file? It is converted once: transformers reads GGUF slowly and not in 4 bits."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr
from pathlib import Path

from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from peftsweep.errors import ModelError, is_library_error
from peftsweep.models.fingerprints import of_file
from peftsweep.models.quiet import mute_native_output, silence_libraries
from peftsweep.safe_text.escaping import in_line
from peftsweep.safe_text.quoting import PATH, shortened, word
from peftsweep.system.atomic_files import aside, put_if_free
from peftsweep.system.leftovers import tidy
from peftsweep.system.names import shorten_name
from peftsweep.system.umask import umask_permissions


def convert_gguf(file: Path, cache: Path) -> Path:
    """A folder in the cache with the config, tokenizer and fp32 weights of the file, for `from_pretrained`.

    It is written aside and renamed, so an existing folder is always complete.

    Raises:
        ModelError: the file is broken, transformers does not read its architecture from GGUF, or the disk is full.
    """
    folder = cache / "gguf" / shorten_name(f"{file.stem}-{of_file(file)}")
    tidy(folder)
    if folder.is_dir():
        return folder
    try:
        with aside(folder) as path:
            path.mkdir(parents=True)
            _convert(file, path)
            put_if_free(path, folder)
    except BaseException as error:  # transformers, tokenizers and gguf raise many kinds of errors for a broken file
        if not is_library_error(error):
            raise
        why = in_line(shortened(" ".join(str(error).split()) or type(error).__name__, 300))
        raise ModelError(
            f"model.id: {word(str(file), PATH)} could not be converted from GGUF into {folder}: {why}"
        ) from error
    return folder


def _convert(file: Path, to: Path) -> None:
    alone = to / "alone"  # otherwise transformers would also read files beside it, and hang at a pipe
    alone.mkdir()
    (alone / file.name).symlink_to(file.resolve())
    with (
        silence_libraries(),
        mute_native_output(),
        redirect_stderr(io.StringIO()),
    ):  # its progress bar cannot be switched off
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=file.name, trust_remote_code=False)
        model = AutoModel.from_pretrained(alone, gguf_file=file.name, trust_remote_code=False)
    shutil.rmtree(alone)
    tokenizer.save_pretrained(to)
    if hasattr(model.config, "quantization_config"):  # the weights below are no longer quantised
        del model.config.quantization_config
    model.config.save_pretrained(to)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with umask_permissions(to / "model.safetensors") as whole:
        save_file(weights, whole, metadata={"format": "pt"})
