import json
import threading

from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.chains import live_losses
from mswitch.flows.chains.live_losses import format_line, read_losses, show_losses, smooth

FALLING = [4.0 - step / 100 for step in range(200)]


def write_metrics(run, losses, tail=""):
    run.mkdir(exist_ok=True)
    lines = [json.dumps({"step": n, "train/loss": v}) + "\n" for n, v in enumerate(losses, 1)]
    (run / "metrics.jsonl").write_text("".join(lines) + tail)


def test_a_line_says_when_the_baseline_was_as_good():
    line = format_line({"dense": FALLING, "sparse": FALLING[::2]}, 400)
    assert line == (
        "dense: step 200 of 400, loss 2.13 · "
        "sparse: step 100 of 400, loss 2.26 (dense: at step 187)"
    )
    assert "(dense: not yet)" in format_line({"dense": FALLING[:50], "sparse": FALLING}, 400)


def test_there_is_no_line_before_both_have_begun():
    assert not format_line({"dense": FALLING, "sparse": []}, 400)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60))
def test_a_smoothed_loss_lies_among_the_losses(losses):
    smoothed = smooth(losses)
    assert len(smoothed) == len(losses)
    assert all(min(losses) <= loss <= max(losses) for loss in smoothed)


def test_an_unfinished_line_and_a_skipped_step_are_left_out(tmp_path):
    assert read_losses(tmp_path / "none") == []
    write_metrics(tmp_path / "run", [3.0, None, 2.0], '{"step": 4, "tra')
    assert read_losses(tmp_path / "run") == [3.0, 2.0]


def test_the_line_has_the_time_left(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live_losses, "INTERVAL_SECS", 0.05)
    ended, runs = threading.Event(), {name: tmp_path / name for name in ("dense", "sparse")}
    for run in runs.values():
        write_metrics(run, FALLING[:20])
    thread = threading.Thread(target=show_losses, args=("demo", runs, 400, ended))
    thread.start()
    for end in range(40, 200, 20):
        for run in runs.values():
            write_metrics(run, FALLING[:end])
        ended.wait(0.1)
    ended.set()
    thread.join()
    assert " s left" in capsys.readouterr().err
