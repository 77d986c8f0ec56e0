"""A hub on this machine: resolve addresses, another host behind it, tokens, gates, cut connections."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000
"""Bytes from which on a file is kept as the hub keeps large ones: with a SHA-256, on another host."""


@dataclass
class Repo:
    """files : name -> bytes; commit : of main; licence : the word on its card"""

    files: dict[str, bytes]
    commit: str = "c" * 40
    licence: str = ""
    gated: bool = False


@dataclass
class Hub:
    """What the server does, changed by tests while it runs.

    cuts : how many bytes each coming answer with a large file gives before its connection is closed (first in, first
    out); wrong : names whose bytes come changed; seen : (method, path, Range, who asked, which host)
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    good_token: str = "hf_good"
    members: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)
    ranges: bool = True
    bare: bool = False
    busy: int = 0
    url: str = ""
    far_url: str = ""
    seen: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    def asked(self, word: str = "") -> list[str]:
        return [path for _, path, _, _, _ in self.seen if word in path]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listing(hub: Hub, name: str, repo: Repo) -> dict[str, Any]:
    siblings: list[dict[str, Any]] = []
    for file, content in repo.files.items():
        about: dict[str, Any] = {"rfilename": file}
        if not hub.bare:
            about |= {"size": len(content), "blobId": git_sha1(content)}
            if len(content) >= LARGE:
                about["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        siblings.append(about)
    return {"id": name, "sha": repo.commit, "siblings": siblings, "gated": "manual" if repo.gated else False,
            "cardData": {"license": repo.licence} if repo.licence else {}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    far = False

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.seen.append((self.command, path, self.headers.get("Range", ""), self.headers.get("Authorization", ""),
                         "far" if self.far else "hub"))
        if hub.busy and not self.far:
            hub.busy -= 1
            return self._say(503, "busy")
        if path.startswith("/api/models/"):
            name, _, _ = path.removeprefix("/api/models/").partition("/revision/")
            repo = hub.repos.get(name)
            return self._say(200, json.dumps(listing(hub, name, repo))) if repo else self._refuse(404, "RepoNotFound")
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        repo, file = hub.repos.get(name), rest.partition("/")[2]
        if repo is None:
            return self._refuse(401, "RepoNotFound")
        if repo.gated and not self.far:
            who = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if not who:
                return self._refuse(401, "GatedRepo")
            if who not in hub.members:
                return self._refuse(403, "GatedRepo")
        if file not in repo.files:
            return self._refuse(404, "EntryNotFound")
        content = repo.files[file]
        if len(content) >= LARGE and not self.far:
            return self._forward(path, content)
        return self._send(file, content)

    def _forward(self, path: str, content: bytes) -> None:
        self.send_response(302)
        self.send_header("Location", self.hub.far_url + path)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, file: str, content: bytes) -> None:
        hub, start = self.hub, 0
        if file in hub.wrong:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("Range", "")
        if asked and hub.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self._say(416, "")
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{git_sha1(content)}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content[start:]
        if len(content) >= LARGE and hub.cuts:
            self.wfile.write(body[:hub.cuts.pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _refuse(self, code: int, word: str) -> None:
        self._say(code, word, {"X-Error-Code": word, "X-Error-Message": word})

    def _say(self, code: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = b"" if self.command == "HEAD" else text.encode()
        self.send_response(code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub and, on another port, the host that it forwards to."""
    servers = []
    for far in (False, True):
        handler = type("Bound", (Handler,), {"hub": hub, "far": far})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.url, hub.far_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
