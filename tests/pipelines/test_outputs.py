import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import end, start

from mswitch.pipelines import directory_lock, outputs, storage
from mswitch.pipelines.directory_lock import lock_directory
from mswitch.pipelines.errors import UserError


def publish(out, config, text="data"):
    with outputs.stage_output(out, stage="corpus", config=config) as staged:
        if staged.complete:
            return False
        (staged.directory / "file").write_text(text)
        staged.publish({"rows": 1})
        return True


def test_publishes_once_and_then_does_nothing(tmp_path):
    out = tmp_path / "corpus"
    out.mkdir()  # an empty directory may be used
    assert publish(out, {"a": 1})
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert not publish(out, {"a": 1}, text="other")
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
    manifest = outputs.read_manifest(out, "corpus")
    assert manifest["config"] == {"a": 1}
    assert manifest["rows"] == 1


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stands_for_its_directory(tmp_path, exists):
    target, out = tmp_path / "disk" / "corpus", tmp_path / "corpus"
    (target if exists else target.parent).mkdir(parents=True)
    out.symlink_to(target)
    assert publish(out, {"a": 1})
    assert out.is_symlink()
    assert (target / "file").read_text() == "data"
    assert not publish(out, {"a": 1})
    assert not publish(target, {"a": 1})
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [".corpus.lock"]


def test_a_link_to_nothing_is_refused_where_no_stage_makes_it(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"symbolic link to .*nowhere, which does not exist"):
        lock_directory(tmp_path / "run").__enter__()


@pytest.mark.parametrize("out", ["gs://bucket/out", Path("gs://bucket/out")])
def test_a_stage_that_makes_directories_takes_no_url_for_one(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="writes to a local directory"):
        publish(out, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", [".", ".."])
def test_a_directory_is_not_made_from_inside(out, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(UserError, match="give --out by its own name"):
        publish(out, {})


def test_an_interrupted_stage_continues_in_its_own_place(tmp_path):
    out = tmp_path / "corpus"
    with outputs.stage_output(out, stage="corpus", config={"a": 1}) as staged:
        (staged.directory / "unit").write_text("done")
        assert not out.exists()
    with outputs.stage_output(out, stage="corpus", config={"a": 2}) as staged:
        assert not (staged.directory / "unit").exists()
    with outputs.stage_output(out, stage="corpus", config={"a": 1}) as staged:
        assert (staged.directory / "unit").read_text() == "done"
        staged.publish({})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".corpus.lock", "corpus"]


def test_working_files_beside_a_directory_go_with_it(tmp_path):
    out = tmp_path / "out"
    notes = f".out.partial-{outputs.config_hash('corpus', {'a': 1})}.units"
    for other in ({"a": 2}, {"a": 1}):
        (tmp_path / notes).mkdir()
        assert publish(out, other)
        assert sorted(p.name for p in tmp_path.iterdir()) == [".out.lock", "out"]
        shutil.rmtree(out)
    (tmp_path / notes).mkdir()
    with outputs.stage_output(out, stage="corpus", config={"a": 1}):
        assert not (tmp_path / notes).exists()


def test_what_another_output_has_begun_stays(tmp_path):
    other = tmp_path / ".c1.partial-0123456789abcdef"
    other.mkdir()
    assert publish(tmp_path / "c[1]", {})
    assert other.exists()


def test_what_a_killed_writer_left_half_written_is_not_published(tmp_path):
    code = """if 1:
        import os, signal, sys
        from mswitch.pipelines import storage
        with storage.publish(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    with outputs.stage_output(tmp_path / "out", stage="corpus", config={}) as staged:
        folder = staged.directory / "folder"
        folder.mkdir()
        end(start("-c", code, folder / "shard"), -signal.SIGKILL)
        assert len(list(folder.iterdir())) == 1
        (folder / "other").write_text("whole")
        staged.publish({})
    assert [path.name for path in (tmp_path / "out" / "folder").iterdir()] == ["other"]


def test_another_configuration_is_refused_and_named(tmp_path):
    """A tuple is the list that JSON gives back."""
    publish(tmp_path / "corpus", {"a": (1, 2), "b": 1})
    with pytest.raises(UserError, match=r"corpus was made with other .*changed: b\)"):
        publish(tmp_path / "corpus", {"a": (1, 2), "b": 2})


@pytest.mark.parametrize("marker", [False, True])
def test_foreign_directories_are_refused(tmp_path, marker):
    out = tmp_path / "corpus"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    if marker:
        (out / outputs.MARKER).write_text("")
        storage.write_json(out / outputs.MANIFEST, {"stage": "vocabulary"})
    with pytest.raises(UserError, match="corpus"):
        publish(out, {})
    assert (out / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "advice"),
    [("--out", "wait for it to end or stop it, or choose another --out"), ("", "or stop it")],
)
def test_a_second_writer_is_kept_out_with_the_holder_named(tmp_path, monkeypatch, option, advice):
    monkeypatch.setattr(directory_lock, "LOCK_PATIENCE_SECS", 0.2)
    with (
        lock_directory(tmp_path / "corpus"),
        pytest.raises(UserError, match=f"in use by another run .process {os.getpid()}.*{advice}$"),
        lock_directory(tmp_path / "corpus", option),
    ):
        pass


def test_a_name_that_libraries_would_not_find_is_refused(tmp_path, monkeypatch):
    """They take names to be UTF-8, whatever the locale says."""
    for name, wrong in ((b"caf\xc3\xa9", False), (b"caf\xe9", True)):
        with contextlib.nullcontext() if not wrong else pytest.raises(UserError, match="not UTF-8"):
            lock_directory(tmp_path / os.fsdecode(name)).__enter__()
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1"))
    with pytest.raises(UserError, match=r"the name of --out '.*caf\\xe9' is not UTF-8: choose"):
        lock_directory(tmp_path / "café").__enter__()
    lock_directory(tmp_path / "coffee").__enter__()


def test_a_killed_writer_leaves_no_lock(tmp_path):
    script = (
        "import sys, time\nfrom mswitch.pipelines.directory_lock import lock_directory\n"
        f"with lock_directory({str(tmp_path / 'corpus')!r}):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    with lock_directory(tmp_path / "corpus"):
        pass


@pytest.mark.parametrize("moment", ["before_marker", "before_publish", "after_publish"])
def test_killed_while_publishing_then_run_again(tmp_path, moment):
    script = (
        "from mswitch.pipelines import outputs\n"
        f"with outputs.stage_output({str(tmp_path / 'out')!r}, stage='corpus', config={{'a': 1}})"
        " as staged:\n"
        "    (staged.directory / 'file').write_text('data')\n"
        "    staged.publish({'rows': 1})\n"
    )
    (tmp_path / ".out.partial-0123456789abcdef").mkdir()
    end(start("-c", script, MSWITCH_FAULT=f"corpus.{moment}"), -signal.SIGKILL)
    assert (tmp_path / "out").exists() == (moment == "after_publish")
    assert publish(tmp_path / "out", {"a": 1}) == (moment != "after_publish")
    assert outputs.read_manifest(tmp_path / "out", "corpus")["rows"] == 1
    assert not list(tmp_path.glob(".*partial*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none does not exist"),
        ("pages", r"pages is a file: give a vocabulary directory \(from `mswitch vocab"),
        ("half", "half is not a finished vocabulary output"),
        ("corpus", "corpus is the output of the stage corpus, not of vocabulary"),
    ],
)
def test_unfinished_and_wrong_directories_are_not_read(tmp_path, name, message):
    (tmp_path / "pages").touch()
    (tmp_path / "half").mkdir()
    publish(tmp_path / "corpus", {})
    with pytest.raises(UserError, match=message):
        outputs.read_manifest(tmp_path / name, "vocabulary")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    outputs.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        outputs.write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_the_hash_does_not_depend_on_key_order(config):
    turned = dict(reversed(config.items()))
    assert outputs.config_hash("corpus", config) == outputs.config_hash("corpus", turned)
    assert outputs.config_hash("corpus", config) != outputs.config_hash("vocabulary", config)
    assert json.loads(outputs.canonical_json(config)) == config


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (".", r"^\. is a directory: choose another --out$"),
        ("", r"^\. is a directory: choose another --out$"),
        ("folder", "^folder is a directory: choose another --out$"),
        ("new/", "^new/ is a directory: choose another --out$"),
        ("corpus/deep/f.csv", "is inside .*corpus, which stays as published: choose another --out"),
        ("file/f.csv", r"^cannot write to .*file: File exists; .*, or choose another --out$"),
        ("/proc/f.csv", "^cannot write to /proc: .*; make that possible, or choose another --out$"),
        ("pipe", "^pipe is not a regular file: choose another --out$"),
        ("https://example.org/f.csv", "can only be read: choose another --out"),
        ("./other.csv", "^./other.csv is also given for --weights: choose another --out$"),
    ],
)
def test_files_that_cannot_be_written_are_refused(tmp_path, monkeypatch, file, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    publish(tmp_path / "corpus", {})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message):
        outputs.check_output_files(weights="other.csv", html=None, out=file)
    assert sorted(tmp_path.rglob("*")) == before


def test_directories_of_files_are_made(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("old.csv")
    outputs.check_output_files(out=tmp_path / "a" / "b" / "f.csv", html=tmp_path / "link.csv")
    outputs.check_output_files(out="gs://bucket/f.csv", weights="gs://bucket/g.csv")
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "old.csv").read_text() == "old"
