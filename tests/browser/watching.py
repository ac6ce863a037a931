"""A browser page that fails the test when something goes wrong behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

# MLflow's pages ask who is logged in; a server without a login rejects the request
NO_LOGIN = "/ajax-api/2.0/mlflow/users/current"
INSIDE = ("blob", "data", "about")  # these requests do not leave the browser


@contextmanager
def watched(browser: Browser, **options: Any) -> Iterator[Page]:
    """Open a new page in a profile of its own. It may write no error to the console, and none of its requests may fail
    or go to another server.

    Args:
        options: of Playwright's `new_context`, such as the size and the colour scheme.

    Raises:
        AssertionError: lists what went wrong, one line each.
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
        if request.failure != "net::ERR_ABORTED":  # the page itself cancelled it
            wrong.append(f"{request.method} {request.url}: {request.failure}")

    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(f"an error that nobody caught: {error}"))
    page.on("crash", lambda _: wrong.append("the page crashed"))
    page.on("response", answered)
    page.on("requestfailed", failed)
    page.on("request", lambda request: asked.append(request.url))
    try:
        yield page
        page.evaluate("0")  # wait until earlier events have been delivered
    except BaseException as error:
        error.add_note("\n".join(wrong))
        raise
    finally:
        context.close()
    own = _server(asked[0])
    strangers = [url for url in asked if urlsplit(url).scheme not in INSIDE and _server(url) != own]
    assert wrong == [] and strangers == []


def _server(url: str) -> str:
    """Scheme, host and port. For a file it is the file itself: such a page may request no other file."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc or parts.path}"
