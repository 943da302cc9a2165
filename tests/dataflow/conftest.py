"""An object store on loopback: Google's own client and Beam's file systems talk to it."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server
from processes import free_port

BUCKET = "mswitch-test"


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the key file of a service account, whose tokens a server on loopback hands out."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Tokens) as server:
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


class _Tokens(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object):
        pass


@pytest.fixture(scope="session")
def storage_server(account: Path) -> Iterator[str]:
    """Serve gs:// from memory; give the server's address. Children inherit the environment."""
    with pytest.MonkeyPatch.context() as patch:
        # Workers and their thirty requests at a time must not overflow the queue.
        patch.setattr(HTTPServer, "request_queue_size", 128)
        # Each answer is two small packets: without this the second waits 40 ms.
        patch.setattr(StreamRequestHandler, "disable_nagle_algorithm", True)
        for name in ("gcp_storage_emulator.server", "api.object", "api.bucket"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        patch.setenv("NO_GCE_CHECK", "true")
        with create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET):
            yield address


@pytest.fixture
def bucket(storage_server: str, request: pytest.FixtureRequest) -> str:
    """Give a URL below which nothing is stored yet."""
    return f"gs://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def upload(storage_server: str) -> Callable[[Path, str], str]:
    """Give a function that puts a file into the bucket."""
    from pipelines import storage

    def put(path: Path, url: str) -> str:
        with storage.publish(url) as copy:
            copy.write_bytes(path.read_bytes())
        return url

    return put


@pytest.fixture
def upload_tree(upload: Callable[[Path, str], str]) -> Callable[[Path, str], str]:
    """Give a function that puts all files below a directory into the bucket."""
    from pipelines import storage

    def put(directory: Path, url: str) -> str:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                upload(path, storage.join(url, str(path.relative_to(directory))))
        return url

    return put
