"""Check that every address in the documents still answers. Needs a network: make links."""

from __future__ import annotations

import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [file for place in (".", "docs", "docker", "benchmarks") for file in (ROOT / place).glob("*.md")]
PATIENCE = 20  # seconds
GONE = (404, 410)  # other codes below 500, such as 403 and 429, are meant for programs, not for readers
PAUSE = 1  # seconds before a server that failed is asked again


def addresses(files: Iterable[Path]) -> list[str]:
    """All addresses, sorted, except those of the reader's own machine and of example hosts."""
    found = {
        url.rstrip(".,:;") for file in files for url in re.findall(r"https?://[^\s)>`\"'\]]+", file.read_text("utf-8"))
    }
    return sorted(url for url in found if not re.match(r"https?://(127\.0\.0\.1|localhost|[\w.-]+\.example)\b", url))


def answer(url: str, again: bool = True) -> str | None:
    """Return what is wrong with an address, or None.

    Args:
        again: whether to ask a server that fails (5xx) a second time.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (a check of links)"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        failed = error.code >= 500
        if failed and again:
            time.sleep(PAUSE)
            return answer(url, again=False)
        return f"{error.code} {error.reason}" if failed or error.code in GONE else None
    except (OSError, ValueError) as error:
        return str(error)


def main(files: list[Path]) -> int:
    urls = addresses(files)
    with ThreadPoolExecutor(8) as threads:
        wrong = [(url, said) for url, said in zip(urls, threads.map(answer, urls), strict=True) if said is not None]
    for url, said in wrong:
        print(f"{url}: {said}")
    print(f"{len(urls)} addresses, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]] or DOCUMENTS))
