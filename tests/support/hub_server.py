"""A peer for the Hugging Face Hub's API of data sets, which its own client talks to over HTTP.

It has what the client uses to describe a repository, list and download files of a commit, and to
upload files and commit them. Listings come in pages; large files go through Git LFS.
"""

import base64
import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

API = "/api/datasets/<owner>/<name>"
ENTRIES_PER_PAGE = 2
TOKEN = "hf_test"


@dataclasses.dataclass
class Repository:
    """A data set: its commits, oldest first, each with the content of its files."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: Mapping[str, bytes]) -> str:
        """Replace all files; return the commit."""
        names = sorted(
            hashlib.sha1(data + name.encode()).hexdigest() for name, data in files.items()
        )
        sha = hashlib.sha1(f"{len(self.commits)} {names}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = self.head if revision == "main" else revision
        if sha not in self.commits:
            raise _refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]


class Hub:
    """The server's repositories, and what it was asked for.

    Attributes:
        repositories: by OWNER/NAME.
        objects: content of large files by SHA-256, uploaded or committed.
        requests: method and path of each request.
        failures: words of paths, with the number of next requests for them that fail.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: dict[str, int] = {}

    def count(self, method: str, part: str) -> int:
        return sum(m == method and part in path for m, path in self.requests)

    def find(self, name: str) -> Repository:
        found = self.repositories.get(name)
        if found is None or (found.private and not _is_authorized()):
            raise _refusal(401, "RepoNotFound", "Repository not found")
        return found


def _is_authorized() -> bool:
    return request.headers.get("Authorization") == f"Bearer {TOKEN}"


def _refusal(code: int, name: str, message: str) -> HTTPException:
    headers = {"X-Error-Code": name, "X-Error-Message": message}
    return HTTPException(response=Response(json.dumps({"error": message}), code, headers))


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _is_large(path: str) -> bool:
    return path.endswith((".parquet", ".gz"))


def _describe(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
    sha256 = hashlib.sha256(data).hexdigest()
    return {
        **entry,
        **(
            {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 1}} if _is_large(path) else {}
        ),
    }


def _list(files: Mapping[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
    """Files and folders below a folder."""
    prefix = f"{below}/" if below else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, data in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        folders = path[len(prefix) :].split("/")[:-1]
        depths = range(1, len(folders) + 1) if recursive else range(1, min(2, len(folders) + 1))
        for depth in depths:
            folder = prefix + "/".join(folders[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": _blob(folder.encode())}
        if recursive or not folders:
            entries[path] = _describe(path, data)
    return list(entries.values())


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[str]:
    """Serve the API on loopback; give its address."""
    app = Flask("hub")

    @app.before_request
    def note() -> Response | None:
        hub.requests.append((request.method, request.path))
        for word, left in hub.failures.items():
            if word in request.path and left:
                hub.failures[word] -= 1
                return Response("busy", 503)
        return None

    _serve_files(app, hub)
    _take_files(app, hub)
    with make_server("127.0.0.1", 0, app, threaded=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _serve_files(app: Flask, hub: Hub) -> None:
    @app.get(API)
    @app.get(f"{API}/revision/<path:revision>")
    def describe(owner: str, name: str, revision: str = "main"):
        repository = hub.find(f"{owner}/{name}")
        sha, files = repository.at(revision)
        card = files.get("README.md", b"").decode().split("---\n")
        return {
            "_id": "1", "id": f"{owner}/{name}", "sha": sha, "private": repository.private,
            "cardData": yaml.safe_load(card[1]) if len(card) > 2 else None,
            "siblings": [{"rfilename": path} for path in files],
        }  # fmt: skip

    @app.get(f"{API}/tree/<revision>")
    @app.get(f"{API}/tree/<revision>/<path:below>")
    def tree(owner: str, name: str, revision: str, below: str = ""):
        _, files = hub.find(f"{owner}/{name}").at(revision)
        entries = _list(files, below, request.args.get("recursive", "").lower() == "true")
        if below and not entries:
            raise _refusal(404, "EntryNotFound", f"{below} does not exist")
        start = int(request.args.get("cursor", "0"))
        answer = jsonify(entries[start : start + ENTRIES_PER_PAGE])
        if start + ENTRIES_PER_PAGE < len(entries):
            arguments = {**request.args, "cursor": str(start + ENTRIES_PER_PAGE)}
            query = "&".join(f"{key}={value}" for key, value in arguments.items())
            answer.headers["Link"] = f'<{request.base_url}?{query}>; rel="next"'
        return answer

    @app.post(f"{API}/paths-info/<revision>")
    def paths(owner: str, name: str, revision: str):
        _, files = hub.find(f"{owner}/{name}").at(revision)
        wanted = request.form.getlist("paths")
        return jsonify(
            [entry for entry in _list(files, "", recursive=True) if entry["path"] in wanted]
        )

    @app.get("/datasets/<owner>/<name>/resolve/<revision>/<path:path>")
    def download(owner: str, name: str, revision: str, path: str):
        sha, files = hub.find(f"{owner}/{name}").at(revision)
        if path not in files:
            raise _refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        digest = hashlib.sha256(data).hexdigest() if _is_large(path) else _blob(data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        answer = Response(data, headers=headers, mimetype="application/octet-stream")
        return answer.make_conditional(request, accept_ranges=True, complete_length=len(data))


def _take_files(app: Flask, hub: Hub) -> None:
    @app.post("/api/repos/create")
    def create():
        if not _is_authorized():
            raise _refusal(401, "Unauthorized", "Invalid username or password.")
        name = f"{request.json['organization']}/{request.json['name']}"
        assert request.json["type"] == "dataset"
        url = f"{request.host_url}datasets/{name}"
        if name in hub.repositories:
            return {"error": "You already created this dataset repo", "url": url}, 409
        hub.repositories[name] = Repository(request.json.get("visibility") == "private")
        hub.repositories[name].commit({".gitattributes": b"*.parquet filter=lfs\n"})
        return {"url": url, "name": name}

    @app.post("/api/validate-yaml")
    def validate():
        assert yaml.safe_load(request.json["content"].split("---\n")[1])["configs"]
        return {"errors": [], "warnings": []}

    @app.post(f"{API}/preupload/<revision>")
    def plan(owner: str, name: str, revision: str):
        _, files = hub.find(f"{owner}/{name}").at(revision)
        known = {path: _describe(path, data) for path, data in files.items()}
        return {
            "files": [
                {
                    "path": (path := file["path"]),
                    "uploadMode": "lfs" if _is_large(path) else "regular",
                    "shouldIgnore": False,
                    "oid": known[path].get("lfs", known[path])["oid"] if path in known else None,
                }
                for file in request.json["files"]
            ]
        }

    @app.post("/datasets/<owner>/<name>.git/info/lfs/objects/batch")
    def batch(owner: str, name: str):
        hub.find(f"{owner}/{name}")
        objects = []
        for wanted in request.json["objects"]:
            href = f"{request.host_url}lfs/{wanted['oid']}"
            actions = (
                {} if wanted["oid"] in hub.objects else {"actions": {"upload": {"href": href}}}
            )
            objects.append({**wanted, **actions})
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/<oid>")
    def upload(oid: str):
        assert hashlib.sha256(request.data).hexdigest() == oid
        hub.objects[oid] = request.data
        return ""

    @app.post(f"{API}/commit/<revision>")
    def commit(owner: str, name: str, revision: str):
        assert _is_authorized()
        repository = hub.find(f"{owner}/{name}")
        files = dict(repository.at(revision)[1])
        for line in request.data.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        url = f"{request.host_url}datasets/{owner}/{name}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": url}
