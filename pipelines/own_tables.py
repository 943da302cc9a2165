"""Reads CSV files that are part of the package `mswitch.pipelines`."""

import csv
import importlib.resources


def read_own_table(path: str) -> list[dict[str, str]]:
    """Return the rows of a CSV, given its path within the package."""
    file = importlib.resources.files("mswitch.pipelines").joinpath(path)
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))
