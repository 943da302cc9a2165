"""CPU time in turns, figures beside their bars, tables, commands, and options of benchmarks."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def mswitch(*words: object) -> list[str]:
    return [sys.executable, "-m", "mswitch.flows.cli.main", *map(str, words)]


def options(doc: str | None, **defaults: object) -> argparse.Namespace:
    """Options of the command line; a value is of the type of its default."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
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


def judge(name: str, value: float, least: float) -> None:
    """Print a figure beside the least that it should be."""
    print(f"{name}: {value:.3f}, at least {least:g}{' (missed)' if value < least else ''}")


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Lines of a table."""
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(map(str, cells))} |"
