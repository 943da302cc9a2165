"""The corpus builder measured: speed, slope, memory, against datatrove and a plain process.

    make bench                     # builds runs/bench if it is not there (300 MB of text)
    .venv/bin/python tests/benchmarks/corpus.py --crawl runs/bench --rounds 3 --copies 10

Contenders run in turn, round after round, on the same files; medians and ratios are printed, and
how long each phase of a build took. With `--copies` (profile `mc4`), the crawl is repeated with
other URLs and lines, to see how time and memory grow: start-up, and the rate beyond it.
"""

import argparse
import contextlib
import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from crawl_data import write_crawl
from timing import ROOT, mswitch

HERE = Path(__file__).parent
DATATROVE = ROOT / ".venv-bench" / "bin" / "python"
WORKERS = 2
_PHASE = re.compile(r"\[corpus\] ([\w ]+): .* took ([0-9.]+) s")


class Measured(NamedTuple):
    """Seconds of wall clock and of CPU, the peak memory of the process tree in MB, and phases."""

    wall: float
    cpu: float
    peak_mb: float
    phases: dict[str, float]


def measure(command: list[str], memory: bool = False) -> Measured:
    """Run a command.

    Args:
        command: what to run.
        memory: whether to look at it, twice a second, as the sum of proportional set sizes. The
            kernel walks all pages for it, which takes a twentieth of the command's own time: such
            a run is not one to time.
    """
    peak, cpu = 0.0, dict[int, float]()
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        ended = False
        while not ended:
            total = 0.0
            for child in _tree(process.pid):
                total += _pss_mb(child) if memory else 0
                cpu[child] = max(cpu.get(child, 0.0), _cpu_secs(child))
            peak = max(peak, total)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                ended = True
        wall = time.perf_counter() - start
        output.seek(0)
        said = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{said}")
    phases = {name: float(secs) for name, secs in _PHASE.findall(said)}
    return Measured(wall, sum(cpu.values()), peak, phases)


def _tree(root: int) -> list[int]:
    found = [root]
    for process in found:
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                children = Path(f"/proc/{process}/task/{task}/children").read_text()
                found += map(int, children.split())
        except OSError:
            continue
    return found


def _pss_mb(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1e3


def _cpu_secs(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def copies_of(wet: Path, out: Path, copies: int) -> Path:
    """Repeat a crawl: each copy has URLs and lines of its own, and duplicates as the original."""
    if out.exists():
        return out
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for path in sorted(wet.glob("*.warc.wet.gz")):
        from fastwarc.warc import ArchiveIterator, WarcRecordType

        with open(path, "rb") as file:
            records = [
                (r.headers["WARC-Target-URI"], r.reader.read())
                for r in ArchiveIterator(file, record_types=WarcRecordType.conversion)
            ]
        for copy in range(copies):
            with gzip.open(partial / f"copy{copy:02d}-{path.name}", "wb", 3) as target:
                for url, text in records:
                    body = text.replace(b"\n", b" %d\n" % copy)
                    head = (
                        "WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
                        f"WARC-Target-URI: {url}?copy={copy}\r\nContent-Type: text/plain\r\n"
                        f"Content-Length: {len(body)}\r\n\r\n"
                    )
                    target.write(head.encode() + body + b"\r\n\r\n")
    partial.rename(out)
    return out


def text_bytes(crawl: Path) -> int:
    """Return the decompressed size of the files."""
    size = 0
    for path in crawl.glob("*.gz"):
        # In parts: gzip.decompress copies what is left once for each record.
        with gzip.open(path) as file:
            while part := file.read(1 << 20):
                size += len(part)
    return size


def build(profile: str, inputs: str, out: Path) -> list[str]:
    options = ("--profile", profile, "--input", inputs, "--out", out)
    return mswitch("corpus", "build", *options, "--", f"--direct_num_workers={WORKERS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--crawl", type=Path, default=ROOT / "runs" / "bench")
    parser.add_argument("--megabytes", type=float, default=300.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--profile", choices=("mc4", "modern"), default="mc4")
    arguments = parser.parse_args()
    if arguments.copies and arguments.profile != "mc4":
        parser.error("--copies repeats WET files: it goes with --profile mc4")
    write_crawl(arguments.crawl, arguments.megabytes)
    kind = {"mc4": "wet", "modern": "warc"}[arguments.profile]
    crawl = arguments.crawl / kind
    size = text_bytes(crawl) / 1e6
    with tempfile.TemporaryDirectory(dir=arguments.crawl) as work:
        results: dict[str, list[Measured]] = {}
        stats = {}
        peaks: dict[str, float] = {}
        # The first round is for memory; it warms the files too.
        for number in range(arguments.rounds + 1):
            out = Path(work) / f"corpus-{number}"
            for name, command in contenders(arguments.profile, crawl, out).items():
                found = measure(command, memory=name not in peaks)
                if name not in peaks:
                    peaks[name] = found.peak_mb
                else:
                    results.setdefault(name, []).append(found)
                print(f"[bench] round {number}: {name}, {found.wall:.1f} s", file=sys.stderr)
            stats = json.loads((out / "stats.json").read_text())
            shutil.rmtree(out)
        report(results, peaks, size)
        describe(stats, size)
        if arguments.copies:
            big = copies_of(crawl, arguments.crawl / f"x{arguments.copies}", arguments.copies)
            runs = [
                measure(build("mc4", f"{big}/*.gz", Path(work) / f"big-{memory}"), memory=memory)
                for memory in (True, False)
            ]
            name, big_size = f"mswitch, x{arguments.copies}", text_bytes(big) / 1e6
            report({name: runs[1:]}, {name: runs[0].peak_mb}, big_size)
            small = statistics.median(run.wall for run in next(iter(results.values())))
            rate = (big_size - size) / (runs[1].wall - small)
            print(
                f"x {runs[1].wall / small:.1f} the time, start-up {small - size / rate:.1f} s, "
                f"then {rate:.1f} MB/s"
            )


def contenders(profile: str, crawl: Path, out: Path) -> dict[str, list[str]]:
    """Return the commands that compete, by name; the builder is the first."""
    name = {"mc4": "corpus", "modern": "extract"}[profile]
    limit = {"mc4": "plain process", "modern": f"bare extractor, {WORKERS} processes"}[profile]
    bare = [sys.executable, str(HERE / f"{name}_bare.py"), str(crawl)]
    found = {
        f"mswitch, {WORKERS} workers": build(profile, f"{crawl}/*.gz", out),
        limit: bare if profile == "mc4" else [*bare, str(WORKERS)],
    }
    if DATATROVE.exists():
        peer = [str(DATATROVE), str(HERE / f"{name}_datatrove.py"), str(crawl), f"{out}-peer"]
        found[f"datatrove, {WORKERS} workers"] = [*peer, str(WORKERS)]
    return found


def report(results: dict[str, list[Measured]], peaks: dict[str, float], size: float) -> None:
    """Print medians, and each contender's time over the first one's in the same round."""
    first = next(iter(results.values()))
    print(f"{size:.0f} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, runs in results.items():
        wall = statistics.median(run.wall for run in runs)
        cpu = statistics.median(run.cpu for run in runs)
        ratio = statistics.median(a.wall / b.wall for a, b in zip(runs, first, strict=True))
        cpu_ratio = statistics.median(a.cpu / b.cpu for a, b in zip(runs, first, strict=True))
        print(
            f"{name:28} {wall:7.1f} s  {size / wall:6.1f} MB/s  cpu {cpu:7.1f} s  "
            f"x {ratio:5.2f} of mswitch's time, {cpu_ratio:5.2f} of its cpu  "
            f"peak {peaks[name]:6.0f} MB"
        )
    phases = statistics.median_low(first).phases
    print("phases: " + ", ".join(f"{name} {secs:.1f} s" for name, secs in phases.items()))


def describe(stats: dict, size: float) -> None:
    """Print what is needed to judge the shuffled bytes."""
    lines = stats["lines"]
    if not lines["in"]:
        return
    duplicates = 1 - lines["out"] / lines["in"]
    shuffled = sum(stats["shuffled_bytes"].values()) / 1e6
    print(
        f"shuffled {shuffled:.1f} MB of fingerprints = {shuffled / size:.1%} of the text "
        f"({lines['in']:,} lines of pages with paragraphs, {duplicates:.0%} of them duplicates)"
    )


if __name__ == "__main__":
    main()
