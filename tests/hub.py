"""A small model and dataset hub on this machine: the part of the Hugging Face hub's HTTP that its clients use."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]  # by path in the repository


class Hub:
    """The hub's content, which may change while the hub is served.

    Attributes:
        repositories: the files of each revision, keyed by `datasets/owner/name` or `owner/name`.
        gated: the repositories whose licence must be accepted first.
        asked: the paths of all requests.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Files]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    def answer(self, path: str, form: Mapping[str, list[str]]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the response."""
        self.asked.append(path)
        api = path.startswith("/api/")
        parts = path.removeprefix("/api").removeprefix("/models").strip("/").split("/")
        kind = [parts.pop(0)] if parts[0] == "datasets" else []
        name = "/".join([*kind, *parts[:2]])
        if name in self.gated:
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"}, b""
        if name not in self.repositories:
            return 404 if kind else 401, {"X-Error-Code": "RepoNotFound"}, b""
        verb, revision, *inside = [*map(unquote, parts[2:]), "main", "main"][: max(2, len(parts) - 2)]
        revision = next((name for name in self.repositories[name] if revision in (name, commit(name))), "")
        if not revision:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files, headers = self.repositories[name][revision], {"X-Repo-Commit": commit(revision)}
        if not api:
            return self._file(files, "/".join(inside), headers)
        return self._described(name, verb, revision, files, "/".join(inside), form)

    def _file(self, files: Files, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if path not in files:
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        return 200, headers | {"ETag": f'"{hashlib.sha1(files[path]).hexdigest()}"'}, files[path]

    def _described(
        self, name: str, verb: str, revision: str, files: Files, inside: str, form: Mapping[str, list[str]]
    ) -> tuple[int, dict[str, str], bytes]:
        if verb == "paths-info":
            found = [
                entry for path in form.get("paths", []) for entry in _entries(files, path) if entry["path"] == path
            ]
        elif verb == "tree":
            found = [entry for entry in _entries(files, inside) if entry["path"] != inside]
            if not found:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
        else:
            name = name.removeprefix("datasets/")
            siblings = [{"rfilename": path} for path in files]
            described = {"id": name, "sha": commit(revision), "siblings": siblings, "private": False, "tags": []}
            return 200, {}, json.dumps(described).encode()
        return 200, {}, json.dumps(found).encode()


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


def _entries(files: Files, inside: str) -> list[dict[str, Any]]:
    """The files and folders at or below a path."""
    folders = {str(folder) for path in files for folder in Path(path).parents if str(folder) != "."}
    found: list[dict[str, Any]] = [{"type": "directory", "path": path, "oid": commit(path)} for path in folders]
    found += [
        {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
        for path, body in files.items()
    ]
    return [entry for entry in found if not inside or f"{entry['path']}/".startswith(f"{inside}/")]


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve the hub; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
            status, headers, body = hub.answer(urlsplit(self.path).path, form)
            span = self.headers.get("Range")
            if span and status == 200 and body:
                first, _, last = span.removeprefix("bytes=").partition("-")
                whole, body = len(body), body[int(first) : int(last) + 1 if last else None]
                status = 206
                headers = headers | {"Content-Range": f"bytes {first}-{int(first) + len(body) - 1}/{whole}"}
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def with_hub(url: str, home: Path, program: str, *arguments: str, **environment: str) -> Any:
    """The JSON that a program prints. It runs in a new Python, because the clients read HF_ENDPOINT on import."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    theirs = {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[1],
        env=ours | theirs | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
