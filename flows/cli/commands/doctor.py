"""`mswitch doctor`: show what is installed, and what is missing."""

import dataclasses

from cyclopts import App

from mswitch.flows.cli.doctor_checks import CHECKS, format_findings
from mswitch.flows.stages.common import Json, print_result

app = App(name="doctor")


@app.default
def doctor(*, json: Json = False) -> int:
    """Check packages, devices, Beam runners, programs and this machine.

        mswitch doctor

    The exit code is 1 if something is WRONG, such as a version with which mswitch does not work.
    """
    findings = [finding for check in CHECKS for finding in check()]
    rows = [dataclasses.asdict(finding) for finding in findings]
    print_result({"stage": "doctor", "findings": rows}, format_findings(findings), json)
    return int(any(finding.status == "wrong" for finding in findings))
