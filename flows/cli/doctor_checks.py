"""Check which packages, devices and runners work here, and what each missing one is for."""

import dataclasses
import importlib.metadata
import importlib.util
import itertools
import os
import platform
import shutil
from collections.abc import Iterator
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mswitch.flows.devices_found import find_devices
from mswitch.pipelines.errors import UserError

Status = Literal["ok", "missing", "wrong"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    Attributes:
        group: heading of the table's part, such as an extra or `devices`.
        name: the package, program or device.
        status: whether it can be used.
        detail: its version, or how to get it.
    """

    group: str
    name: str
    status: Status
    detail: str


def check_packages() -> list[Finding]:
    """Compare installed packages with the requirements in mswitch's metadata, extra by extra."""
    findings = []
    for requirement, extra in _read_requirements():
        group = extra or "pipelines"
        how = f"pip install 'mswitch[{extra}]'" if extra else "pip install mswitch"
        if extra in ("plan", "plan-gpu"):
            how = f"not here: `mswitch plan` has a separate environment, .venv-{extra}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(group, requirement.name, "missing", how))
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        detail = version if fits else f"{version}, needs {requirement.specifier}: {how}"
        findings.append(Finding(group, requirement.name, "ok" if fits else "wrong", detail))
    return findings


def find_extra(module: str) -> str | None:
    """Return the extra that installs a module; None if it is a base dependency or unknown."""
    name = canonicalize_name(module)
    for requirement, extra in _read_requirements():
        # A prefix is enough, such as `orbax` of orbax-checkpoint.
        if f"{canonicalize_name(requirement.name)}-".startswith(f"{name}-"):
            return extra
    return None


def _read_requirements() -> Iterator[tuple[Requirement, str | None]]:
    """Yield the requirements of mswitch, each with its extra, None for a base dependency."""
    extras = importlib.metadata.metadata("mswitch").get_all("Provides-Extra") or []
    for line in importlib.metadata.requires("mswitch") or []:
        requirement = Requirement(line)
        marker = requirement.marker
        conditional = marker is not None and not marker.evaluate({"extra": ""})
        chosen = (extra for extra in extras if marker and marker.evaluate({"extra": extra}))
        yield requirement, next(chosen, None) if conditional else None


def check_devices() -> list[Finding]:
    """List the devices JAX sees."""
    if importlib.util.find_spec("jax") is None:
        return [Finding("devices", "jax", "missing", "pip install 'mswitch[train]'")]
    try:
        devices = find_devices()
    except UserError as error:
        return [Finding("devices", "jax", "wrong", str(error))]
    return [Finding("devices", devices.platform, "ok", f"{devices.count} x {devices.kind}")]


def check_runners() -> list[Finding]:
    """Find which Beam runners can be used on this machine."""
    java = shutil.which("java")
    flink = java and f"{java}; also needs a job-server jar"
    google = _is_installed("google.cloud.dataflow_v1beta3")
    dataflow = "Google client installed; needs a project" if google else None
    return _look_for(
        "runners",
        ("local", "processes of this machine", ""),
        ("flink", flink, "install a Java runtime (17 or newer)"),
        ("prism", shutil.which("prism"), "give -- --prism_location=BINARY"),
        ("dataflow", dataflow, "pip install 'mswitch[gcp]'"),
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the module's parent package is not installed
        return False


def check_programs() -> list[Finding]:
    """Look for the programs that optional features need."""
    debian = "for mswitch sample debian: needs Debian or Ubuntu"
    browser = "for browser tests of the report: apt-get install chromium"
    wanted = {"apt-get": debian, "dpkg-deb": debian, "chromium": browser}
    return _look_for("programs", *((name, shutil.which(name), how) for name, how in wanted.items()))


def _look_for(group: str, *rows: tuple[str, str | None, str]) -> list[Finding]:
    return [
        Finding(group, name, "ok" if detail else "missing", detail or how)
        for name, detail, how in rows
    ]


def check_machine() -> list[Finding]:
    """Report Python, processors, memory and disk space of the working directory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = shutil.disk_usage(".").free / 2**30
    advice = "" if free > 5 else ", 5 advised"
    return [
        Finding("machine", "python", "ok", platform.python_version()),
        Finding("machine", "processors", "ok", str(os.cpu_count())),
        Finding("machine", "memory", "ok", f"{memory / 2**30:.1f} GiB"),
        Finding(
            "machine", "disk", "wrong" if advice else "ok", f"{free:.1f} GiB free here{advice}"
        ),
    ]


CHECKS = (check_machine, check_packages, check_devices, check_runners, check_programs)


def format_findings(findings: list[Finding]) -> str:
    """Format the findings as a table, by group."""
    width = max(len(finding.name) for finding in findings)
    marks = {"ok": "ok     ", "missing": "MISSING", "wrong": "WRONG  "}
    lines = []
    for group, members in itertools.groupby(findings, lambda finding: finding.group):
        lines.append(f"\n{group}")
        lines += [f"  {marks[f.status]}  {f.name:<{width}}  {f.detail}" for f in members]
    return "\n".join(lines).lstrip("\n")
