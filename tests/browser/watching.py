"""A page as a person sees it, and all that goes wrong behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

# MLflow's pages ask who is logged in; a server without a login does not know the question
NO_LOGIN = "/ajax-api/2.0/mlflow/users/current"
INSIDE = ("blob", "data", "about")  # no request leaves the browser


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    """A new page in a profile of its own, on which nothing may go wrong: no error on the console, no request that fails
    or goes to strangers.

    Args:
        options: of Playwright's `new_context`, such as the size and the colour scheme.

    Raises:
        AssertionError: what went wrong, a line each.
    """
    wrong: list[str] = []
    asked: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
    page = context.new_page()

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and urlsplit(message.location["url"]).path != NO_LOGIN:
            wrong.append(f"the console says: {message.text} ({message.location['url']})")

    def answered(response: Response) -> None:
        if response.status >= 400 and urlsplit(response.url).path != NO_LOGIN:
            wrong.append(f"{response.request.method} {response.url}: {response.status}")

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page itself took it back
            wrong.append(f"{request.method} {request.url}: {request.failure}")

    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(f"an error that nobody caught: {error}"))
    page.on("crash", lambda _: wrong.append("the page crashed"))
    page.on("response", answered)
    page.on("requestfailed", failed)
    page.on("request", lambda request: asked.append(request.url))
    try:
        yield page
        page.evaluate("0")  # what happened before it has been told by now
    except BaseException as error:
        error.add_note("\n".join(wrong))
        raise
    finally:
        context.close()
    own = _server(asked[0])
    strangers = [url for url in asked if urlsplit(url).scheme not in INSIDE and _server(url) != own]
    assert wrong == [] and strangers == []


def _server(url: str) -> str:
    """Scheme, host and port; of a file, the file itself: a page that is one asks for no other."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc or parts.path}"
