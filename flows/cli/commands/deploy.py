"""`mswitch deploy`: put flows on a Prefect server."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from mswitch.flows.child_processes import is_supervised, supervise
from mswitch.flows.stages.common import Json, print_result
from mswitch.pipelines.errors import UserError

app = App(name="deploy")

Flag = Annotated[bool, Parameter(negative="")]


@app.default
def deploy(
    *,
    operators: Path | None = None,
    dry_run: Flag = False,
    check: Flag = False,
    serve: Flag = False,
    json: Json = False,
) -> int:
    """Put mswitch's work pool, automations, deployments and schedules on a Prefect server.

    It prints the differences and updates the server; without any, it changes nothing. New schedules
    are inactive, except the reconciler's, unless operators.toml says `active = true`. A person's
    changes in Prefect, such as an activated schedule, stay unless operators.toml says otherwise.

        mswitch deploy --serve
        mswitch deploy --operators operators.toml --check

    Args:
        operators: file with server, storage, launchers and schedules (docs/how-to/operators.md); by
            default operators.toml, if it exists.
        dry_run: print the differences from the server, and change nothing.
        check: print the differences from the server, change nothing, and end with code 1 if there
            are any.
        serve: also run a server, its UI and a worker on this machine, until Ctrl-C.
    """
    from mswitch.flows.prefect.operators_toml import FILE, read_operators

    if sum((dry_run, check, serve)) > 1:
        raise UserError("--dry-run, --check and --serve exclude each other: give one of them")
    settings = read_operators(operators)
    if serve and not is_supervised("deploy"):
        return supervise(sys.argv[1:])
    from mswitch.flows.prefect.deploy.apply import deploy as run_deploy
    from mswitch.flows.prefect.deploy.serve import serve as run_serve

    file = operators or (Path(FILE) if Path(FILE).exists() else None)
    if serve:
        run_serve(settings, file)
    lines = run_deploy(settings, file, write=not (dry_run or check))
    text = "\n".join(lines) or f"{settings.server}: nothing differs"
    print_result({"stage": "deploy", "out": str(settings.server), "changes": lines}, text, json)
    return 1 if check and lines else 0
