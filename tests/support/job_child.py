"""A stand-in for a command that is a job: `job_child.py MODE OUT [URL]`.

It writes its process id and number into OUT/starts, a line into its log, and does what MODE says.
Where there is a URL, that is its output: half-made files and the marker are there.
One process of several that runs steadily ends when another one is lost, as a training does.
"""

import os
import signal
import sys
import time
from pathlib import Path


def finish(out: Path, *url: str) -> None:
    write("_COMPLETED", out, *url)
    sys.exit(0)


def write(name: str, out: Path, *url: str) -> None:
    from mswitch.pipelines import storage

    storage.write_json(storage.join(url[0] if url else out, name), {})


def other_is_lost(out: Path, process: str, starts: int) -> bool:
    pids: dict[str, list[str]] = {}
    for line in (out / "starts").read_text().splitlines():
        pid, number = line.split()
        pids.setdefault(number, []).append(pid)
    return any(
        len(its) == starts and not Path("/proc", its[-1]).exists()
        for number, its in pids.items()
        if number != process
    )


def main(mode: str, out: Path, *url: str) -> None:
    if os.environ.get("MSWITCH_LIFELINE"):
        from mswitch.models.lifeline import exit_with_parent

        exit_with_parent()

    def save(*_: object) -> None:
        time.sleep(0.1)
        (out / "saved").touch()
        print("saved", flush=True)
        sys.exit(75)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else save)
    out.mkdir(exist_ok=True)
    process = os.environ.get("SLURM_PROCID", os.environ.get("JOB_COMPLETION_INDEX", "0"))
    with (out / "starts").open("a") as file:
        print(os.getpid(), process, file=file)
    starts = len(
        [line for line in (out / "starts").read_text().splitlines() if line.endswith(process)]
    )
    print(f"process {process}: start {starts}", flush=True)
    if mode == "finish" or (mode == "resume-once" and starts > 1):
        finish(out, *url)
    if mode == "resume-once":
        write("half", out, *url)
        sys.exit(75)
    if mode == "refuse":
        print("mswitch: --steps is 0: give at least 1", file=sys.stderr)
        sys.exit(2)
    if mode in ("fail", "stall", "unmarked"):
        sys.exit({"fail": 1, "stall": 75, "unmarked": 0}[mode])
    while not (out / "go").exists():
        (out / "beat").write_text(str(time.time()))
        time.sleep(0.02)
        if other_is_lost(out, process, starts) and not (out / "go").exists():
            # While Python ends, a SIGTERM would have its default effect.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.exit(75)
    finish(out, *url)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *(word for word in sys.argv[3:] if "://" in word))
