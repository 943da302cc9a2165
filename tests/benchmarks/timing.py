"""CPU time in turns, figures beside their bars, commands to time, and options of benchmarks."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


def mswitch(*words: object) -> list[str]:
    return [sys.executable, "-m", "mswitch.flows.cli.main", *map(str, words)]


def options(doc: str | None, **defaults: object) -> argparse.Namespace:
    """Options of the command line; a value is of the type of its default."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def cpu_secs(*functions: Callable[[], object], rounds: int = 5) -> list[list[float]]:
    """CPU seconds of calls in turn, a list for each function, after calls that warm up."""
    found: list[list[float]] = [[] for _ in functions]
    for round_ in range(rounds + 1):
        for function, secs in zip(functions, found, strict=True):
            begin = time.process_time()
            function()
            if round_:
                secs.append(time.process_time() - begin)
    return found


class Figure(NamedTuple):
    """A figure, and the least or the most that it should be."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def bar(self) -> str:
        """What it is held against."""
        least = "" if self.least is None else f"at least {self.least:,g}"
        most = "" if self.most is None else f"at most {self.most:,g}"
        return ", ".join(filter(None, (least, most)))

    @property
    def missed(self) -> bool:
        """Whether it is beyond its bar."""
        return (self.least is not None and self.value < self.least) or (
            self.most is not None and self.value > self.most
        )


def show(figures: list[Figure]) -> None:
    width = max(len(figure.name) for figure in figures)
    print()
    for figure in figures:
        digits = 0 if figure.value >= 100 else 3
        line = f"{figure.name:{width}}  {figure.value:>10,.{digits}f}  {figure.bar}"
        print(f"{line}{' (missed)' if figure.missed else ''}".rstrip())
    print(json.dumps([figure._asdict() for figure in figures]), flush=True)
