"""Why has Ray lost a worker?"""

from __future__ import annotations

import re

DETAIL = re.compile(r"Worker exit detail: (.*?)(?:There are some potential root causes|$)", re.DOTALL)
OF_NO_USE = ("class_name", "actor_id", "pid:", "namespace", "ip:")  # how lines begin that say nothing to users


def why_lost(error: BaseException) -> str:
    """Why Ray lost an actor, in a line. Of a dead process, Ray always lists the same guesses; they are left out."""
    if type(error).__name__ == "ActorDiedError":
        if "its node has died" in str(error):
            return "its machine is gone"
        detail = DETAIL.search(str(error))
        return f"its process died: {' '.join(detail[1].split())}" if detail else "its process died"
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(OF_NO_USE)]
    return " ".join(told[:3]) or type(error).__name__
