"""Prefect's settings for a flow in this process, with a server that ends with it."""

import os

_PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The flow uses no blocks; looking for kinds of them takes a second.
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    # The command prints errors itself, once and readably.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Its server, stopped at the end, may log the traceback of a cancelled query as an error.
    "PREFECT_LOGGING_ROOT_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # The first start migrates a fresh database: Prefect's own 20 s are too tight.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
}


def prefect_for_one_flow() -> None:
    """Set Prefect up for a flow in this process, with an API that ends with it."""
    os.environ.update({k: v for k, v in _PREFECT_DEFAULTS.items() if k not in os.environ})
