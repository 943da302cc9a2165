"""A file server on loopback that throttles, truncates, lies and forgets, as a test decides."""

import collections
import hashlib
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Mood = Callable[["Handler"], bool]
"""Answers a request (True), or changes what the ordinary answer will be (False)."""


def status(code: int, retry_after: str = "") -> Mood:
    """Answer with a status and nothing else."""

    def act(handler: "Handler") -> bool:
        handler.send_response(code)
        if retry_after:
            handler.send_header("Retry-After", retry_after)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return act


def otherwise(**changes: object) -> Mood:
    """Change attributes of the handler."""

    def act(handler: "Handler") -> bool:
        vars(handler).update(changes)
        return False

    return act


def close_after(count: int) -> Mood:
    """Promise everything, send `count` bytes and hang up."""
    return otherwise(most_bytes=count)


def hang_up(handler: "Handler") -> bool:
    """Say nothing at all."""
    handler.close_connection = True
    return True


def both(*moods: Mood) -> Mood:
    """Several at once; only the last may answer."""
    return lambda handler: [mood(handler) for mood in moods][-1]


class Handler(BaseHTTPRequestHandler):
    """Serves the files of its server, with ETag and Range.

    Attributes:
        most_bytes: how many are sent.
        parts: whether a part is sent where one is asked for.
        corrupted: whether a byte is changed on the way.
        states_length: whether it says how long the file is.
    """

    server: "Server"
    most_bytes: int | None = None
    parts = True
    corrupted = False
    states_length = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        files = self.server.owner
        with files.lock:
            files.requests.append((self.path, dict(self.headers)))
            files.active += 1
            files.most_active = max(files.most_active, files.active)
            mood = files.moods[self.path].popleft() if files.moods[self.path] else None
        try:
            if not (mood and mood(self)):
                self._send_file(files)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with files.lock:
                files.active -= 1

    def _send_file(self, files: "FileServer") -> None:
        content = files.files.get(self.path)
        if content is None:
            status(404)(self)
            return
        headers = {"ETag": files.etag(content), **files.headers.get(self.path, {})}
        first, last = 0, len(content) - 1
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.parts:
            if wanted[1]:
                first, last = int(wanted[1]), min(last, int(wanted[2] or last))
            else:
                first = max(0, len(content) - int(wanted[2]))
            if first > last:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        else:
            self.send_response(200)
        body = bytearray(content[first : last + 1])
        if self.states_length:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.corrupted:
            body[len(body) // 2] ^= 1
        self.wfile.write(body[: self.most_bytes])
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: "FileServer"


class FileServer:
    """What is served, and how.

    Attributes:
        files: content by path.
        headers: further headers by path; "" takes one away.
        moods: what the next requests for a path will meet, in order; then all is well.
        requests: path and headers of every request so far.
        most_active: how many requests were answered at a time at most.
        url: its address.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.moods: dict[str, collections.deque[Mood]] = collections.defaultdict(collections.deque)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.active = self.most_active = 0
        self.lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.status, self.close_after, self.both = status, close_after, both
        self.hang_up, self.ignore_range = hang_up, otherwise(parts=False)
        self.corrupt = otherwise(corrupted=True)
        self.without_length = otherwise(states_length=False)

    @staticmethod
    def etag(content: bytes) -> str:
        """An MD5, as object stores give it."""
        return f'"{hashlib.md5(content).hexdigest()}"'

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
