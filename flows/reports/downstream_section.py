"""Comparisons of fine-tuned runs (`mswitch report downstream`) that a report includes."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.flows.reports.runs import EvaluatedRun
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import read_json_object, read_manifest

STAGE = "downstream"
PAGE, DATA = "downstream.html", "downstream.json"


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A comparison of fine-tuned runs.

    Attributes:
        option: its option on the command line, for messages.
        hash: hash of its configuration and inputs.
        data: contents of its JSON file.
        files: all its files, by name.
    """

    option: str
    hash: str
    data: Mapping[str, Any]
    files: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Folder of this comparison's files, below the report."""
        name = re.sub("[^A-Za-z0-9._-]+", "-", self.data["task"]["name"])
        return f"downstream-{name}-{self.data['summary']['split']}"

    def began_with(self, pairs: Sequence[tuple[EvaluatedRun, EvaluatedRun]]) -> bool:
        """Return whether the compared runs were fine-tuned from the runs of one of these pairs."""
        return any(None not in self._begun_at(pair) for pair in pairs)

    def _begun_at(self, pair: Sequence[EvaluatedRun]) -> list[int | None]:
        """Return the step from which each run of a pair was fine-tuned; None if a run was not."""
        began = [dict(_origins(run["origin"])) for run in self.data["runs"][:2]]
        hashes = [run.config["config_hash"] for run in pair]
        return [steps.get(of) for steps, of in zip(began, hashes, strict=True)]

    def section(self, pairs: Sequence[tuple[EvaluatedRun, EvaluatedRun]]) -> dict[str, Any]:
        """Return the section with this comparison, for the report on these pairs."""
        summary, runs = self.data["summary"], self.data["runs"]
        begun = {step for pair in pairs for step in self._begun_at(pair) if step is not None}
        last = pairs[0][0].steps[-1]
        cautions = list(summary["cautions"])
        if begun != {last}:
            steps = " and ".join(f"{step:,}" for step in sorted(begun))
            cautions.append(f"Fine-tuned from step {steps}; pretraining above is to step {last:,}.")
        return {
            "path": f"{self.folder}/{PAGE}",
            "task": self.data["task"]["name"],
            "verdict": summary["verdict"],
            "cautions": cautions,
            "models": [run["name"] for run in runs],
            "reads": "; ".join(f"{run['name']}: {run['reads']}" for run in runs[:2]),
            "results": [
                {key: result[key] for key in ("decode", "metric", "average")}
                for result in self.data["results"]
                if result["average"]
            ],
            "speed_up": self.data["speed_up"],
        }


def read_downstream(directories: Sequence[str | Path]) -> list[Downstream]:
    """Read the comparisons in these directories."""
    comparisons = []
    for directory in map(Path, directories):
        manifest = read_manifest(directory, STAGE)
        files = {
            file["path"]: (directory / file["path"]).read_text(encoding="utf-8")
            for file in manifest["files"]
        }
        if PAGE not in files:
            raise UserError(
                f"--downstream {directory} is of one run: give an output of `mswitch report "
                "downstream`"
            )
        data = read_json_object(directory / DATA)
        comparisons.append(
            Downstream(f"--downstream {directory}", manifest["config_hash"], data, files)
        )
    return comparisons


def check_downstream(
    tuned: Sequence[Downstream], comparisons: Sequence[Sequence[tuple[EvaluatedRun, EvaluatedRun]]]
) -> None:
    """Check that comparisons began with runs of this report, and differ in task or candidate."""
    for comparison in tuned:
        if not any(map(comparison.began_with, comparisons)):
            raise UserError(
                f"{comparison.option}: its runs were not fine-tuned from runs of this report: "
                "compare runs that began with these (mswitch finetune --from)"
            )
    for pairs in comparisons:
        by_folder: dict[str, Downstream] = {}
        for comparison in filter(lambda comparison: comparison.began_with(pairs), tuned):
            other = by_folder.setdefault(comparison.folder, comparison)
            if other is not comparison:
                raise UserError(
                    f"{other.option} and {comparison.option} are of the same task: give one"
                )


def _origins(origin: Mapping[str, Any] | None) -> Iterator[tuple[str, int]]:
    while origin is not None:
        yield origin["config_hash"], origin["step"]
        origin = origin["origin"]
