"""Talking to the Hugging Face hub, or to a mirror of it: what a repository holds, and a file's bytes from a place on.

HF_ENDPOINT names a mirror, HF_TOKEN (or the file that ``hf auth login`` writes) who asks, HF_HUB_OFFLINE=1 forbids all
of it. The token goes to the endpoint and to nobody that it forwards to. Standard library only: proxies and certificates
are the system's.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from engine.errors import BadInput, MaquetteError, RunFailed

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
LONGEST_ANSWER = 64 << 20
AGENT = "maquette"


class Broken(Exception):
    """The connection was refused, broke or fell silent: worth another attempt."""


@dataclass(frozen=True)
class Remote:
    """A file of a repository. size : bytes; sha256 : of large files; git : SHA-1 of the others as git counts it

    What the hub does not tell is None or "".
    """

    name: str
    size: int | None = None
    sha256: str = ""
    git: str = ""


@dataclass(frozen=True)
class Repository:
    """What a repository holds at a commit. licence : the word on its card"""

    hub: str
    revision: str
    files: dict[str, Remote]
    licence: str = ""


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, else huggingface.co. BadInput where that is none."""
    told = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").strip().rstrip("/")
    try:
        good = urlsplit(told).scheme in ("http", "https") and bool(urlsplit(told).hostname)
    except ValueError:
        good = False
    if not good:
        raise BadInput(f"HF_ENDPOINT is {told!r}, which is no address", "Example: https://huggingface.co")
    return told


def token() -> str:
    """HF_TOKEN, else what ``hf auth login`` left; "" where there is none."""
    told = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if told:
        return told.strip()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask anybody."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")


def repository(hub: str, revision: str = "") -> Repository:
    """What a repository holds. BadInput: gated, private, not there; RunFailed: the hub cannot be reached."""
    url = f"{endpoint()}/api/models/{quote(hub)}/revision/{quote(revision or 'main', safe='')}?blobs=true"
    with _open(url, hub=hub) as answer:
        try:
            told = json.loads(answer.read(LONGEST_ANSWER))
            files = [_remote(each) for each in told["siblings"]]
            commit = str(told.get("sha") or revision)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(str(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFailed(f"{endpoint()} gave no list of the files of {hub}",
                            "Check that HF_ENDPOINT is a mirror of the hub") from error
    return Repository(hub, commit, {file.name: file for file in files}, _licence(told))


def _remote(told: dict[str, Any]) -> Remote:
    large = told.get("lfs") or {}
    size = large.get("size", told.get("size"))
    return Remote(str(told["rfilename"]), int(size) if size is not None else None,
                  str(large.get("sha256") or large.get("oid") or "").removeprefix("sha256:"),
                  "" if large else str(told.get("blobId") or ""))


def _licence(told: dict[str, Any]) -> str:
    card = told.get("cardData") or {}
    word = card.get("license") if isinstance(card, dict) else ""
    if word == "other":
        word = card.get("license_name") or word
    if not word:
        word = next((tag.removeprefix("license:") for tag in told.get("tags") or []
                     if isinstance(tag, str) and tag.startswith("license:")), "")
    return str(word or "")


def describe(hub: str, name: str, revision: str) -> Remote:
    """A file's size and hash from the headers of its address, for hubs whose list lacks them.

    X-Linked-Size and X-Linked-ETag stand on the hub's own answer, before it forwards to where the bytes are.
    """
    answer = _ask(_request(_address(hub, name, revision), "HEAD"), hub, name, follow=False)
    told = answer.headers
    answer.close()
    tag = (told.get("X-Linked-ETag") or told.get("ETag") or "").removeprefix("W/").strip('"')
    size = told.get("X-Linked-Size") or (told.get("Content-Length") if answer.status == 200 else None)
    is_hash = all(c in "0123456789abcdef" for c in tag)
    return Remote(name, int(size) if size else None, tag if is_hash and len(tag) == 64 else "",
                  tag if is_hash and len(tag) == 40 else "")


def bytes_from(hub: str, name: str, revision: str, start: int = 0) -> http.client.HTTPResponse:
    """A file's bytes from ``start`` on: status 206, or 200 from its beginning where the server knows no ranges.

    Broken, or one line as ``repository``; status 416 (nothing is there) is given back too.
    """
    headers = {"Range": f"bytes={start}-"} if start else {}
    return _open(_address(hub, name, revision), headers, hub=hub, name=name)


def _address(hub: str, name: str, revision: str) -> str:
    return f"{endpoint()}/{quote(hub)}/resolve/{quote(revision or 'main', safe='')}/{quote(name)}"


def _request(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> urllib.request.Request:
    told = {"User-Agent": AGENT, "Accept-Encoding": "identity", **(headers or {})}
    if secret := token():
        told["Authorization"] = f"Bearer {secret}"
    return urllib.request.Request(url, headers=told, method=method)


def _open(url: str, headers: dict[str, str] | None = None, *, hub: str, name: str = "") -> http.client.HTTPResponse:
    if offline():
        raise BadInput(f"HF_HUB_OFFLINE is set and {hub} is not here", "Unset it, or copy the files to this machine")
    return _ask(_request(url, "GET", headers), hub, name, follow=True)


def _ask(request: urllib.request.Request, hub: str, name: str, follow: bool) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(_Forward if follow else _Stay)
    try:
        return opener.open(request, timeout=TIMEOUT)  # type: ignore[no-any-return]
    except urllib.error.HTTPError as error:
        if error.code == 416 or (not follow and 300 <= error.code < 400):
            return error  # type: ignore[return-value]
        if error.code in (408, 425, 429) or error.code >= 500:
            raise Broken(f"{endpoint()} answers {error.code} {error.reason}") from error
        raise _refusal(error, hub, name) from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise Broken(f"{endpoint()} cannot be reached ({getattr(error, 'reason', None) or error})") from error


def _refusal(error: urllib.error.HTTPError, hub: str, name: str) -> MaquetteError:
    """What the hub's answer means, with what to do."""
    code, page = str(error.headers.get("X-Error-Code") or ""), f"{endpoint()}/{hub}"
    said = str(error.headers.get("X-Error-Message") or "")
    accept = f"Log in at {page} and accept its terms, make a token at {endpoint()}/settings/tokens, set HF_TOKEN to it"
    if code == "GatedRepo" or (error.code in (401, 403) and "restricted" in said):
        if not token():
            return BadInput(f"{hub} is gated: its authors want to know who takes it, and no HF_TOKEN is set", accept)
        return BadInput(f"{hub} is gated, and the account of your HF_TOKEN may not download it", accept)
    if error.code in (401, 403):
        if not token():
            return BadInput(f"{endpoint()} shows {hub} to nobody without a token: it is gated, private or gone", accept)
        return BadInput(f"{endpoint()} does not accept your HF_TOKEN for {hub} ({error.code})",
                        f"Check the token at {endpoint()}/settings/tokens")
    if error.code == 404 and (code == "EntryNotFound" or (name and not code)):
        return BadInput(f"{hub} has no file {name}",
                        "Get it from its authors, then: maquette models add FILE --role ROLE")
    if error.code == 404 and code == "RevisionNotFound":
        return BadInput(f"{hub} no longer has the commit that the catalogue names", "Update Maquette")
    if error.code == 404:
        return BadInput(f"there is no repository {hub} at {endpoint()}", "Check HF_ENDPOINT; it may have moved")
    return RunFailed(f"{endpoint()} answers {error.code} {error.reason} for {hub}", "Try again later")


class _Forward(urllib.request.HTTPRedirectHandler):
    """Follows forwards; the token stays with the host it was meant for, and nothing goes from https to http."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
                         ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise urllib.error.URLError(f"it forwards to {after.scheme}://{after.netloc}")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and before.netloc != after.netloc:
            made.remove_header("Authorization")
        return made


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows forwards within the host only (a repository that was renamed)."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
                         ) -> urllib.request.Request | None:
        if (urlsplit(req.full_url)[:2]) != urlsplit(newurl)[:2] or headers.get("X-Linked-ETag"):
            return None
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None:
            made.method = req.get_method()
        return made
