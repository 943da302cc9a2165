"""`mswitch doctor`: what is installed, what is missing for what."""

import dataclasses

from cyclopts import App

from mswitch.flows.cli.doctor_checks import examine, format_findings
from mswitch.flows.stages.common import Json, print_result

app = App(name="doctor")


@app.default
def doctor(*, json: Json = False) -> int:
    """Check packages, devices, Beam runners, programs and this machine.

        mswitch doctor

    Exit code 1 when an installed package has a version that mswitch does not work with.
    """
    findings = examine()
    rows = [dataclasses.asdict(finding) for finding in findings]
    print_result({"stage": "doctor", "findings": rows}, format_findings(findings), json)
    return int(any(finding.status == "wrong" for finding in findings))
