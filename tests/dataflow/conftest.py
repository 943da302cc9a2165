"""An object store and a peer of Dataflow on loopback, which Google's own clients talk to."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import HTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler
from typing import Any

import boto3
import crawl_files as crawl
import pytest
from corpus_builds import LENIENT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dataflow_builds import IMAGE, ROOT, RULES, UV, beam_options
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import create_server
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from processes import free_port, run_python
from trees import data_bytes, send
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus

BUCKET, LAKE, READ_ONLY = "mswitch-test", "lake", "mswitch-read-only"


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the key file of a service account, whose tokens a server on loopback hands out."""
    token = {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}
    answer = Response(json.dumps(token), mimetype="application/json")
    with make_server("127.0.0.1", 0, answer, threaded=True) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = tmp_path_factory.mktemp("account") / "key.json"
        fields = {
            "type": "service_account",
            "project_id": "test-project",
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": "robot@test-project.iam.example",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{server.server_port}/token",
        }
        path.write_text(json.dumps(fields))
        yield path
        server.shutdown()


@pytest.fixture(scope="session")
def storage_server(account: Path) -> Iterator[str]:
    """Serve gs:// from memory; give the server's address. Children inherit the environment."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers and their thirty requests at a time must not overflow the queue.
        patch.setattr(HTTPServer, "request_queue_size", 128)
        # Each answer is two small packets: without this the second waits 40 ms.
        patch.setattr(StreamRequestHandler, "disable_nagle_algorithm", True)
        for name in ("gcp_storage_emulator.server", "api.object", "api.bucket", "werkzeug"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        for name in ("_multipart_upload", "_create_resumable_upload"):
            patch.setattr(objects, name, conditional(getattr(objects, name)))
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        patch.setenv("NO_GCE_CHECK", "true")
        with create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET) as server:
            buckets.create_bucket(READ_ONLY, server._storage)
            yield address


def conditional(upload: Callable[..., None]) -> Callable[..., None]:
    """Refuse what the emulator does not: a wrong `ifGenerationMatch`, and a read-only bucket.

    It answers one request at a time.
    """

    def checked(request: Any, response: Any, storage: Any) -> None:
        wanted = request.query.get("ifGenerationMatch")
        if request.params["bucket_name"] == READ_ONLY:
            response.status = HTTPStatus.FORBIDDEN
            response.json({"error": {"code": 403, "message": "storage.objects.create denied"}})
            return
        names = storage.objects.get(request.params["bucket_name"], {})
        described = request.data if isinstance(request.data, dict) else {}  # else a part of a file
        name = request.query.get("name", [described.get("meta", described).get("name")])[0]
        if wanted and names.get(name, {}).get("generation", "0") != wanted[0]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412, "message": "conditionNotMet"}})
        else:
            upload(request, response, storage)

    return checked


@pytest.fixture
def bucket(storage_server: str, request: pytest.FixtureRequest) -> str:
    """Give a URL below which nothing is stored yet."""
    return f"gs://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"


class Requests:
    """WSGI middleware that notes what the server was asked for and what it sent."""

    def __init__(self, app: Any):
        self.app = app
        self.found: list[tuple[str, str, str | None, int]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = b"".join(self.app(environ, start_response))
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.found.append((method, path, environ.get("HTTP_RANGE"), len(body)))
        return [body]

    def reads(self, part: str) -> list[tuple[str | None, int]]:
        """Ranges and sizes of the answers to GET requests for objects with `part` in their name."""
        return [found[2:] for found in self.found if found[0] == "GET" and part in found[1]]


@pytest.fixture(scope="session")
def requests() -> Iterator[Requests]:
    """Serve s3://; give what the server is asked for."""
    app = Requests(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        boto3.client("s3").create_bucket(Bucket=LAKE)
        yield app
    server.shutdown()
    thread.join()


@pytest.fixture(params=["gs", "s3"])
def either(request: pytest.FixtureRequest) -> str:
    """Give a URL below which nothing is stored yet, of each store in turn."""
    if request.param == "gs":
        return request.getfixturevalue("bucket")
    request.getfixturevalue("requests")
    return f"s3://{LAKE}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python with what the template's image installs, and without mswitch."""
    venv = tmp_path_factory.mktemp("worker") / "venv"
    requirements = ROOT / "requirements-gcp.txt"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    python = venv / "bin" / "python"
    subprocess.run(
        [UV, "pip", "sync", "--quiet", "--require-hashes", "--python", python, requirements],
        check=True,
    )
    return python


@pytest.fixture(scope="session")
def peer(
    python: Path, storage_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[object]:
    """A peer with two images: Beam's own, and one in which mswitch is installed."""
    import peer as dataflow

    folder = tmp_path_factory.mktemp("peer")
    source = folder / "source"
    leave_out = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=leave_out, symlinks=True)
    (folder / "beam").mkdir()
    dataflow.install(UV, source, folder / "mswitch")
    images = {dataflow.DEFAULT_IMAGE: folder / "beam", IMAGE: folder / "mswitch"}
    peer = dataflow.Peer(python, UV, images, folder)
    with dataflow.serve(peer) as address:
        peer.address = address
        yield peer


@pytest.fixture
def waiting(peer: Any) -> Iterator[Callable[[str], threading.Event]]:
    """Give a function that lets jobs with a word in their name wait until an event is set."""

    def wait(word: str) -> threading.Event:
        return peer.machines.setdefault(word, threading.Event())

    yield wait
    for job in peer.jobs:
        if not job.finished.is_set():
            job.cancel()
    for event in peer.machines.values():
        event.set()
    peer.machines.clear()


@pytest.fixture
def crawl_files(tmp_path: Path) -> list[Path]:
    texts = [(crawl.GERMAN, "de"), (crawl.ENGLISH, "en"), (crawl.GERMAN, "copy")]
    crawls = [crawl.pages(text, range(9), f"{site}.example") for text, site in texts]
    return crawl.write_all(tmp_path / "crawl", crawls)


@pytest.fixture
def config() -> CorpusConfig:
    """What RULES say."""
    sizes = {"shard_bytes": 2000, "bucket_bytes": 500}
    return dataclasses.replace(LENIENT, min_validation_documents=1, **sizes)


@pytest.fixture
def local_data(crawl_files: list[Path], tmp_path: Path, config: CorpusConfig) -> dict[str, bytes]:
    out = tmp_path / "local"
    build_corpus([str(path) for path in crawl_files], out, config)
    return data_bytes(out / "data")


@pytest.fixture
def command(peer: object, bucket: str, crawl_files: list[Path]) -> Callable[..., list[str]]:
    """Give a function that makes the command of a user of Dataflow."""
    send(crawl_files[0].parent, f"{bucket}/crawl")

    def make(
        *options: str,
        files: str = "*",
        rules: tuple[str, ...] = ("--no-keep-fingerprints",),
        settings: Sequence[str] = RULES,
    ) -> list[str]:
        return [
            sys.executable, "-m", "mswitch.flows.cli.main", "corpus", "build",
            "--runner", "dataflow", "--input", f"{bucket}/crawl/{files}",
            "--out", f"{bucket}/corpus", *settings, *rules, "--",
            *beam_options(peer, bucket, *options),
        ]  # fmt: skip

    return make


@pytest.fixture
def build(command: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Give a function that runs the command."""

    def run(*options: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        return run_python(*command(*options, **settings)[1:], cwd=ROOT)

    return run
