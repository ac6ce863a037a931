"""What does a user read if a base cannot be loaded? Errors of libraries become one message that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    StrictDataclassFieldValidationError,
)
from transformers import __version__ as transformers_version

from peftsweep.config import ModelConfig
from peftsweep.errors import ModelError, first_line, is_library_error
from peftsweep.models.location import Source, message_prefix
from peftsweep.models.quiet import silence_libraries
from peftsweep.safe_text.escaping import in_line
from peftsweep.safe_text.quoting import PATH, quoted, shortened, word

UNREACHABLE = (
    "not in the local cache, and the hub cannot be reached. Check the network (and that HF_HUB_OFFLINE is not set), or "
    "give a folder that holds the model"
)
TYPES = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "NoneType": "null"}
NO_TOKENIZER = "has no tokenizer that transformers reads; save one beside the model"


@contextmanager
def as_model_errors(config: ModelConfig, source: Source | None = None) -> Iterator[None]:
    """Silence libraries while a base is located, loaded or read, and turn their errors into one message.

    Args:
        source: where the base is; None before it is located.

    Raises:
        ModelError: instead of any error that a library or the system raises for a bad input.
    """
    try:
        with silence_libraries():
            yield
    except ModelError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{message_prefix(config)} does not fit the GPU's memory: {first_line(error)}") from error
    except BaseException as error:
        if not is_library_error(error):
            raise
        raise ModelError(f"{message_prefix(config)}: {_explain(error, config, source)}") from error


def _explain(error: BaseException, config: ModelConfig, source: Source | None) -> str:
    causes = list(_chain(error))
    page = f"https://huggingface.co/{word(config.id, PATH)}"
    hub = source is None or source.hub

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = "\n".join(str(cause) for cause in causes)
    if caused_by(GatedRepoError):
        return f"gated: accept its licence at {page}, then log in with `hf auth login` or set HF_TOKEN"
    if caused_by(RevisionNotFoundError) or "is not a valid git identifier" in text:
        return f"has no revision {quoted(config.revision)}; its revisions are listed at {page}/tree/main"
    if caused_by(RepositoryNotFoundError, HFValidationError) or "is not a valid model identifier" in text:
        return (
            "no such model on the hub, and no such folder here. Check the spelling; if it is private, log in with "
            "`hf auth login` or set HF_TOKEN"
        )
    if caused_by(StrictDataclassFieldValidationError):
        return _wrong_field(text)
    if "trust_remote_code" in text:
        where = page if source is None or source.hub else source.name
        return f"comes with its own code. If you trust it (read it at {where}), set model.trust_remote_code: true"
    if "safetensors" in text and ("does not appear to have" in text or "no file named" in text):
        return "has no safetensors weights, and no other format is loaded; convert it with transformers first"
    if hub and (
        caused_by(LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ConnectionError)
        or "couldn't connect to" in text
    ):
        return UNREACHABLE
    if "does not recognize this architecture" in text:
        kind = quoted(text.partition("model type `")[2].partition("`")[0])
        return f"has an architecture, {kind}, that transformers {transformers_version} does not know"
    if "`model_type` key" in text:
        return "has no config.json with an architecture that transformers knows"
    if "backend tokenizer" in text:
        return NO_TOKENIZER
    if "Unrecognized configuration class" in text:
        return "its architecture has no AutoModelForSequenceClassification in transformers: not supported"
    return f"cannot be loaded: {type(error).__name__}: {in_line(shortened(' '.join(str(error).split()), 300))}"


def _wrong_field(text: str) -> str:
    """Which value of config.json has a wrong type, from the message of its dataclass."""
    field = re.search(r"field '([^']*)'", text)
    name = word(field[1]) if field else "a value"
    kinds = dict.fromkeys(TYPES.get(kind, kind) for kind in re.findall(r"expected (\w+), got", text))
    value = re.search(r"\(value: (.*?)\)(?:;|$)", text, re.MULTILINE)
    found = f" is {in_line(shortened(value[1], 60))}," if value else " has a wrong value,"
    return f"has a config.json in which {name}{found} but it must be {' or '.join(kinds) or 'of another type'}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
