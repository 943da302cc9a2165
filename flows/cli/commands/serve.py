"""`mswitch serve`: show the pages of a storage in a browser."""

import contextlib
import os
import secrets
import socket
from typing import Annotated

from annotated_types import Ge, Le
from cyclopts import App

from mswitch.pipelines import storage as storages
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.progress import say

app = App(name="serve")
#: Environment variable with a token that stays the same and appears in no command line.
VARIABLE = "MSWITCH_SERVE_TOKEN"


@app.default
def serve(
    *,
    storage: str = "",
    host: str = "127.0.0.1",
    port: Annotated[int, Ge(0), Le(65535)] = 4280,
) -> int:
    """Serve the HTML pages in a directory or bucket: index, reports, and pages of corpora.

    Visitors can change nothing, and read no other files. On this machine no token is needed, nor
    through a tunnel such as `ssh -L 4280:localhost:4280 HOST`.

        mswitch serve --storage runs
        mswitch serve --host 0.0.0.0  # storage of operators.toml; prints an address with a token

    With `pages = "http://HOST:4280"` in operators.toml, flows link to these pages in Prefect.

    Args:
        storage: a directory, or its gs:// or s3:// URL; by default that of operators.toml.
        host: address of this machine at which to answer. Visitors from other machines need a token:
            that of the environment variable MSWITCH_SERVE_TOKEN, or else a new one.
        port: port at which to answer; 0 for any free port.
    """
    import uvicorn

    from mswitch.flows.prefect.operators_toml import read_operators
    from mswitch.flows.reports.page_server import is_loopback, page_app

    place = storage or str(read_operators().storage)
    if not storages.is_remote(place) and not os.path.isdir(place):
        raise UserError(f"{place} is not a directory: give the directory of reports as --storage")
    token = known = os.environ.get(VARIABLE, "")
    if not (token.isascii() and token.isprintable()) or " " in token or ";" in token:
        raise UserError(
            f"the token in {VARIABLE} has characters that are not printable ASCII, a space or a "
            "semicolon: choose another"
        )
    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot answer at {host}, port {port} ({error}): give another --host or --port"
        ) from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        say("serve", f"{place} at {address}{f'?token={token}' if token != known else ''}")
        config = uvicorn.Config(
            page_app(place, token), log_level="warning", server_header=False, lifespan="off"
        )
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    return 0
