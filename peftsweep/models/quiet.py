"""How are libraries kept from printing and asking while they load, where a user could do nothing about it?"""

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
def silence_libraries() -> Iterator[None]:
    """No loading reports (the new head is intended), progress bars, deprecation warnings or questions.

    transformers asks on the terminal whether to run code unless `trust_remote_code` is given. We always give it, but
    transformers' own calls for parts of a model (a vision tower) do not. With no time to answer, it raises ValueError
    instead.
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
def mute_native_output() -> Iterator[None]:
    """Drop what native code writes to stdout and stderr: tokenizers reports unknown keys and panics there.

    Python must not print anything meanwhile.
    """
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
