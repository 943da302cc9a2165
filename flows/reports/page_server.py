"""Serve pages of reports, indexes and corpora from a directory or bucket, and no other files.

The server is read-only. A visitor from another machine needs the token once: a cookie keeps it.
"""

import contextlib
import ipaddress
import os
import secrets
import urllib.parse
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mswitch.pipelines import objects, storage
from mswitch.pipelines.corpus.change import STATS

INDEX = "index.html"
_NAMES = frozenset(
    f"{stem}.{kind}"
    for stem in ("index", "report", "downstream", "distillation", "run")
    for kind in ("html", "json")
)
_TYPES = {"html": "text/html", "json": "application/json"}
_COOKIE, _COOKIE_SECS = "mswitch_token", 30 * 86400
#: A page is one file with its styles, scripts and figures, and loads nothing else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def page_app(place: str | Path, token: str = "") -> Starlette:
    """Return the web application that serves the pages.

    Args:
        place: a directory, or its gs:// or s3:// URL.
        token: the token that requests need. If it is empty, only requests to localhost are
            answered, so that no other site's page can read them under its own name.
    """

    async def answer(request: Request) -> Response:
        refusal = _refusal(request, token)
        if refusal is not None:
            return refusal
        if "token" in request.query_params:
            # Remove the token from the address line, so that nobody copies it.
            there = request.path_params["path"].lstrip("/")
            clean = RedirectResponse(f"/{urllib.parse.quote(there)}", 303)
            clean.set_cookie(_COOKIE, token, _COOKIE_SECS, httponly=True, samesite="lax")
            return clean
        path = request.path_params["path"]
        path = f"{path}{INDEX}" if path.endswith("/") or not path else path
        content = await run_in_threadpool(read_page, place, path)
        if content is None:
            missing = "there is no such page\n"
            if path == INDEX:
                missing = "there is no index yet: `mswitch report index` of the storage writes it\n"
            return PlainTextResponse(missing, 404, _HEADERS)
        kind = path.rpartition(".")[2]
        return Response(content, headers=_HEADERS, media_type=_TYPES[kind])

    return Starlette(routes=[Route("/{path:path}", answer)])


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine: `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refusal(request: Request, token: str) -> Response | None:
    if not token:
        host = request.headers.get("host", "")
        with contextlib.suppress(ValueError):
            if is_loopback(urllib.parse.urlsplit(f"//{host}").hostname or ""):
                return None
        return PlainTextResponse("this server only answers to localhost\n", 403, _HEADERS)
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    given = [request.query_params.get("token", ""), request.cookies.get(_COOKIE, "")]
    given += [bearer] if scheme.lower() == "bearer" else []
    if any(secrets.compare_digest(candidate.encode(), token.encode()) for candidate in given):
        return None
    told = "open the address that `mswitch serve` printed, with its token\n"
    return PlainTextResponse(told, 401, {**_HEADERS, "WWW-Authenticate": "Bearer"})


def read_page(place: str | Path, path: str) -> bytes | None:
    """Return the bytes of an HTML page or its JSON data; None for a missing or other file.

    Args:
        place: see `page_app`.
        path: path below the place.
    """
    parts = path.split("/")
    if any(not part or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    file = storage.join(place, *parts)
    try:
        with objects.reaching(file):
            known = parts[-1] in _NAMES or _is_corpus_page(file)
            # Reading a named pipe would wait for a writer.
            is_file = storage.exists(file) if storage.is_remote(file) else os.path.isfile(file)
            if not known or not is_file or not _is_within(file, place):
                return None
            return storage.read_bytes(file)
    except (OSError, ValueError, objects.BucketError):
        return None


def _is_corpus_page(file: str) -> bool:
    """Return whether the file is named after a corpus beside it."""
    corpus = file.removesuffix(".html")
    return corpus != file and storage.exists(storage.join(corpus, STATS))


def _is_within(file: str, place: str | Path) -> bool:
    """Return whether a file is in the storage after all links are followed."""
    if storage.is_remote(place):
        return True
    return Path(file).resolve().is_relative_to(Path(place).resolve())
