"""The corpus builder measured: speed, slope, memory, against datatrove and a plain process.

    make bench                     # builds runs/bench if it is not there (300 MB of text)
    .venv/bin/python tests/benchmarks/corpus.py --crawl runs/bench --rounds 3 --copies 10

Contenders run in turn, round after round, on the same files; medians and ratios are printed, and
how long each phase of a build took. With `--copies` (profile `mc4`), the crawl is repeated with
other URLs and lines, to see how time and memory grow: start-up, and the rate beyond it.
"""

import contextlib
import gzip
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

import psutil
from crawl_data import write_crawl
from fastwarc.warc import ArchiveIterator, WarcRecordType
from timing import ROOT, mswitch, options

from mswitch.pipelines.samples.crawl_writer import SamplePage, make_wet_record

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
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        ended = False
        while not ended:
            total = 0.0
            for child in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = child.cpu_times()
                    cpu[child.pid] = times.user + times.system
                    total += child.memory_full_info().pss / 1e6 if memory else 0
            peak = max(peak, total)
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(0.5)
                ended = True
        wall = time.perf_counter() - start
        output.seek(0)
        said = output.read()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{said}")
    phases = {name: float(secs) for name, secs in _PHASE.findall(said)}
    return Measured(wall, sum(cpu.values()), peak, phases)


def copies_of(wet: Path, out: Path, copies: int) -> Path:
    """Repeat a crawl: each copy has URLs and lines of its own, and duplicates as the original."""
    if out.exists():
        return out
    partial = out.with_name(f"{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    for path in sorted(wet.glob("*.warc.wet.gz")):
        with open(path, "rb") as file:
            records = [
                (r.headers["WARC-Target-URI"], r.reader.read())
                for r in ArchiveIterator(file, record_types=WarcRecordType.conversion)
            ]
        for copy in range(copies):
            with open(partial / f"copy{copy:02d}-{path.name}", "wb") as target:
                for url, text in records:
                    body = text.replace(b"\n", b" %d\n" % copy)
                    target.write(make_wet_record(SamplePage(f"{url}?copy={copy}", body, "")))
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
    words = ("--profile", profile, "--input", inputs, "--out", out)
    return mswitch("corpus", "build", *words, "--", f"--direct_num_workers={WORKERS}")


def main() -> None:
    crawl = ROOT / "runs" / "bench"
    defaults = {"crawl": crawl, "megabytes": 300.0, "rounds": 3, "copies": 0, "profile": "mc4"}
    arguments = options(__doc__, **defaults)
    write_crawl(arguments.crawl, arguments.megabytes)
    kind = {"mc4": "wet", "modern": "warc"}[arguments.profile]
    crawl = arguments.crawl / kind
    size = text_bytes(crawl) / 1e6
    with tempfile.TemporaryDirectory(dir=arguments.crawl) as work:
        results: dict[str, list[Measured]] = {}
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
            shutil.rmtree(out)
        report(results, peaks, size)
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
    found = {f"mswitch, {WORKERS} workers": build(profile, f"{crawl}/*.gz", out)}
    if profile == "modern":
        bare = [sys.executable, str(HERE / "extract_bare.py"), str(crawl), str(WORKERS)]
        return {**found, f"bare extractor, {WORKERS} processes": bare}
    found["plain process"] = [sys.executable, str(HERE / "corpus_bare.py"), str(crawl)]
    if DATATROVE.exists():
        peer = [str(DATATROVE), str(HERE / "corpus_datatrove.py"), str(crawl), f"{out}-peer"]
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


if __name__ == "__main__":
    main()
