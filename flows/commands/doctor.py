"""`mswitch doctor`: what is installed, what is missing for what."""

import dataclasses
import json as json_module

from cyclopts import App

from flows.commands.common import Json
from flows.doctor import examine, format_findings

app = App(name="doctor")


@app.default
def doctor(*, json: Json = False) -> int:
    """Check packages, devices, Beam runners, programs and this machine.

    Exit code 1 when an installed package has a version that mswitch does not work with.
    """
    findings = examine()
    if json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json_module.dumps({"stage": "doctor", "findings": rows}))
    else:
        print(format_findings(findings))
    return int(any(finding.status == "wrong" for finding in findings))
