"""The directory of a demo: whose it is, told before anything slow begins."""

import json
from pathlib import Path

from flows.config import DemoConfig
from pipelines import storage
from pipelines.errors import UserError
from pipelines.outputs import lock_directory

CONFIG_FILE = "demo.json"


def check_directory(config: DemoConfig, out: Path) -> None:
    """Refuse `out` now if the flow, which claims it again, would refuse it.

    Raises:
        UserError: `out` is in use, or holds something else or a demo with other settings.
    """
    with lock_directory(out):
        claim_directory(config, out)


def claim_directory(config: DemoConfig, out: Path) -> None:
    """Make `out` the place of this very demo, or refuse it.

    Raises:
        UserError: `out` holds something else, or a demo with other settings.
    """
    settings = config.model_dump(mode="json")
    path = out / CONFIG_FILE
    if path.is_file():
        if json.loads(path.read_text()) != settings:
            raise UserError(
                f"{out} holds a demo with other settings ({path}): "
                "choose another --out, or remove it to start again"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something that is not a demo: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    storage.write_json(path, settings)
