"""What went wrong, in a line? Ray tells it in many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeGuard

from peftsweep.errors import first_line

GUESSES = r"There are some potential root causes|Some common causes|\(1\)"  # how Ray's list of them begins
DETAIL = re.compile(rf"Worker exit detail: (.*?)(?:{GUESSES}|$)", re.DOTALL)
OF_NO_USE = ("class_name", "actor_id", "pid:", "namespace", "ip:")  # how lines begin that say nothing to users
REASON = re.compile(r"^(?:\[\S+ \S+ [EC] [^\]]*\] \S+ |(?=[\w.]*(?:Error|Exception)\b))(.+?)(?:\. .*)?$", re.MULTILINE)


class _RayTaskError(Protocol):
    cause: BaseException


def is_raised(error: BaseException) -> TypeGuard[_RayTaskError]:
    """Whether an actor raised it. Ray gives such an error the class of its cause, too."""
    return type(error).__name__.startswith("RayTaskError")


def why_lost(error: BaseException) -> str:
    """Why Ray lost an actor, in a line. For a dead process, Ray lists the same guesses every time; leave them out."""
    if is_raised(error):  # Ray's own text is a coloured traceback, which begins with its caller
        return f"{type(error.cause).__name__}: {first_line(error.cause)}"
    if type(error).__name__ == "ActorDiedError":
        if "its node has died" in str(error):
            return "its machine is gone"
        detail = DETAIL.search(str(error))
        return f"its process died: {' '.join(detail[1].split()).rstrip('.')}" if detail else "its process died"
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(OF_NO_USE)]
    return " ".join(told[:3]) or type(error).__name__


def why_broken(error: BaseException) -> str:
    """Why Ray cannot be used, in a line: what it says, and the error behind that."""
    told = [" ".join(str(error).split()) or type(error).__name__, last_words(str(error.__cause__))]
    return ": ".join(filter(None, told))


@contextmanager
def named_versions() -> Iterator[None]:
    """If Ray refuses to join a cluster inside, say which versions the cluster has, and which this process."""
    try:
        yield
    except RuntimeError as error:
        match re.findall(r"\b(?:Ray|Python): \S+", str(error)):
            case theirs_ray, theirs_python, ours_ray, ours_python:
                told = f"it has {theirs_ray} and {theirs_python}, and this process has {ours_ray} and {ours_python}"
                raise RuntimeError(told.replace(":", "")) from error
        raise


def last_words(said: str) -> str:
    """The first sentence of the last error in what a process with Ray in it wrote, be it Ray's log or Python's."""
    found: list[str] = REASON.findall(said)
    return found[-1] if found else ""
