"""What libraries say while they load: what they print, which a user can do nothing about, and what they ask."""

from __future__ import annotations

import logging as levels
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from transformers import dynamic_module_utils
from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """No load reports (a new head is meant), no progress bars, no deprecations of one library by another, no questions.

    transformers asks on the terminal whether to run a folder's code wherever `trust_remote_code` is not given. Every
    call of ours gives it, but transformers' own calls for the parts of a model (a vision tower) do not. Without time
    for an answer it does not ask, and raises ValueError.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    logging.set_verbosity(levels.CRITICAL)
    logging.disable_progress_bar()
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def mute() -> Iterator[None]:
    """Without what native code writes to the process's stdout and stderr: tokenizers tells there of keys that it does
    not know, and where it panics, before the exception comes. Nothing of Python's own is to be printed meanwhile."""
    with ExitStack() as undone:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                stream.flush()
                kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
            except (OSError, ValueError):  # closed
                continue
            undone.callback(os.close, kept)
            undone.callback(os.dup2, kept, number)
            os.dup2(nowhere, number)
            os.close(nowhere)
        yield
