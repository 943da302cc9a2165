from mswitch.pipelines import progress


def test_lines_come_rarely_and_the_last_always(monkeypatch, capsys):
    clock = iter([0.0, 0.5, 3.0, 4.0, 20.0, 21.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    work = progress.Progress("corpus", "ingest", 5, "files")
    for _ in range(5):
        work.add(note="12 MB")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" · ")[0] for line in lines] == [
        "[corpus] ingest: 2/5 files",
        "[corpus] ingest: 4/5 files",
        "[corpus] ingest: 5/5 files",
    ]
    assert "0.7 files/s · 4 s left · 12 MB" in lines[0]
    assert "took 21.0 s" in lines[2]


def test_no_time_is_promised_before_anything_is_done(monkeypatch, capsys):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    progress.Progress("corpus", "ingest", 5, "files").add(0)
    assert "ingest: 0/5 files · 0.0 files/s · none finished yet" in capsys.readouterr().err


def test_what_an_earlier_run_did_does_not_count_as_speed(monkeypatch, capsys):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    work = progress.Progress("train", "steps", 100, "steps")
    work.start_at(90)
    work.add(5)
    assert "95/100 steps · 0.5 steps/s · 10 s left" in capsys.readouterr().err


def test_a_line_stays_one_that_a_terminal_only_shows(capsys):
    progress.say("corpus", "damaged: a\x1b[31m\nb")
    assert capsys.readouterr().err == "[corpus] damaged: a?[31m b\n"


def test_lines_of_progress_can_be_left_out(capsys):
    lines = ["[train] warning: 1"]
    with progress.lines_to(lines.extend):
        progress.Progress("train", "mt5-tiny", 2, "steps").add(2, note="loss 3.1")
    assert len(lines) == 2
    progress.pass_on_news(lines)
    assert capsys.readouterr().err == "[train] warning: 1\n"
