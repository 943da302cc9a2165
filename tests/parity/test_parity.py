"""mswitch against transformers 4.57.6, with random weights made afresh: `make test-parity`.

Exported tokenizers are read by transformers 5 as well, in an environment without PyTorch.

Every model goes from Hugging Face to mswitch; the tiny ones and mT5-Small also go through a run
directory and back, where Hugging Face must load every tensor and give the same logits. With
MSWITCH_PARITY=all, mT5-Large too, and XL and XXL at full width with 2+2 layers (24 GB of memory).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import gflanguages
import numpy as np
import own_models
import pyarrow.parquet as pq
import pytest
import sentencepiece
from hf_logits import FIXTURES, compute_cached_logits, compute_logits
from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import train_model
from task_files import vocabulary, write_supervised

from mswitch.models.config import PredictConfig, TrainConfig, TuningConfig
from mswitch.models.huggingface.config import read_config
from mswitch.models.huggingface.convert import export_hf, import_hf, read_parameters
from mswitch.models.huggingface.files import WeightFiles
from mswitch.models.huggingface.tokenizer import write_tokenizer
from mswitch.models.inference.beam import make_beam_decoder
from mswitch.models.inference.decode import make_decoder
from mswitch.models.inference.predict import predict
from mswitch.models.training.finetune import finetune
from mswitch.models.training.state import Skeleton
from mswitch.pipelines.languages import languages
from mswitch.pipelines.outputs import read_json_object
from mswitch.pipelines.samples.gflanguages import GFLANGUAGES_IDS, split_paragraphs
from mswitch.pipelines.special_tokens import EOS_ID, UNK_ID
from mswitch.pipelines.vocabulary.model import add_sentinels, open_vocabulary
from mswitch.tasks.batches.examples import VOCABULARY_PATH

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
PEERS = {
    "4": HERE.parents[1] / ".venv-parity" / "bin" / "python",
    "5": HERE.parents[1] / ".venv-parity5" / "bin" / "python",
}
TOLERANCE = 1e-5
TINY = tuple(sorted(path.name for path in FIXTURES.iterdir()))
LARGE = ("mt5-large", "mt5-xl", "mt5-xxl") if os.environ.get("MSWITCH_PARITY") == "all" else ()
NAMES = (*TINY, "mt5-small", "umt5-small", "switch-base-8", "mt5-base", *LARGE)
THERE_AND_BACK = (*TINY, "mt5-small", "umt5-small")
#: Where slots are few, Hugging Face drops tokens in decoding too.
GENERATING = tuple(name for name in TINY if "drops" not in name)


def peer(*arguments: str | Path, script: str = "hf_models.py", version: str = "4") -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([PEERS[version], HERE / script, *arguments], check=True, env=environment)


def tokenized(directory: Path, texts: Sequence[str], version: str = "4") -> dict[str, list]:
    """`ids` of texts by an exported tokenizer in transformers, `spelt` ids, and `texts` again."""
    (directory / "texts.json").write_text(json.dumps(list(texts)))
    paths = directory, directory / "texts.json", directory / "ids.json"
    peer(*paths, script="hf_tokenizer.py", version=version)
    return json.loads((directory / "ids.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_exports(tmp_path, name):
    peer("make", tmp_path, name)
    directory = tmp_path / name
    with np.load(directory / "expected.npz") as file:
        expected = dict(file)
    model = read_config(read_json_object(directory / "config.json"), name)
    parameters = read_parameters(WeightFiles(directory), model)
    setting = {"groups": 3, "capacity": 9} if "drops" in name else {}
    real = expected["targets"] > 0
    largest = np.abs(expected["logits"]).max()

    def worst_of(made, wanted):
        return float(np.abs(made - wanted)[real].max() / largest)

    made = compute_logits(model, parameters, expected, **setting)
    worst = {"teacher forcing": worst_of(made, expected["logits"])}
    if "cached_logits" in expected:
        decoded = compute_cached_logits(model, parameters, expected)
        worst["cached"] = worst_of(decoded, expected["cached_logits"])
        worst["cached against teacher forcing here"] = worst_of(decoded, made)
    count = sum(value.size for value in parameters.values())
    figures = ", ".join(f"{kind} {difference:.1e}" for kind, difference in worst.items())
    print(f"\n{name}: {count:,} parameters, largest difference over largest logit: {figures}")
    assert max(worst.values()) < TOLERANCE
    if name in THERE_AND_BACK:
        del parameters
        import_hf(directory, tmp_path / "run")
        # Several files and an index, the way large models come.
        shard = 20_000 if "tiny" in name else 400_000_000
        assert export_hf(tmp_path / "run", tmp_path / "back", max_shard_bytes=shard)["files"] > 1
        peer("load", tmp_path / "back", directory / "expected.npz", tmp_path / "back.npz")
        with np.load(tmp_path / "back.npz") as file:
            np.testing.assert_array_equal(file["logits"], expected["logits"])


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    peer("generate", out, *(FIXTURES / name for name in GENERATING))
    return out


def check_outputs(directory: Path, generated: Path) -> None:
    """Greedy outputs and beams here are those that `peer("generate", ...)` wrote."""
    with np.load(generated) as file:
        wanted = dict(file)
    with np.load(directory / "expected.npz") as file:
        inputs = file["inputs"]
    model = read_config(read_json_object(directory / "config.json"), directory.name)
    parameters = read_parameters(WeightFiles(directory), model)
    skeleton = Skeleton.build(model, TrainConfig(dtype="float32"))
    length = wanted["greedy"].shape[1]
    greedy = make_decoder(skeleton, length)(parameters, inputs)
    np.testing.assert_array_equal(greedy.tokens, wanted["greedy"])
    beams = make_beam_decoder(skeleton, length, 4, alpha=0.0)(parameters, inputs)
    tokens = np.asarray(beams.tokens)
    best = wanted["beams"].reshape(len(inputs), 4, length)[:, 0]
    # Where the length ends it, an output counts there as one that has ended, and in T5X only if no
    # other has.
    ended = (best == EOS_ID).any(axis=1)
    compared = ended | ~(tokens == EOS_ID).any(axis=(1, 2))
    after = np.cumsum(best == EOS_ID, axis=1) - (best == EOS_ID) > 0
    best = np.where(after, 0, best)
    np.testing.assert_array_equal(tokens[compared, 0], best[compared])
    print(
        f"\n{directory.name}: {compared.sum()} of {len(best)} beams compared, {ended.sum()} ended"
    )
    assert compared.any()


@pytest.mark.parametrize("name", GENERATING)
def test_greedy_outputs_and_beams(generated, name):
    check_outputs(FIXTURES / name, generated / f"{name}.npz")


@pytest.mark.parametrize("name", ["mt5-small", "switch-base-8"])
def test_greedy_outputs_and_beams_of_published_sizes(tmp_path, name):
    peer("make", tmp_path, name)
    peer("generate", tmp_path, tmp_path / name)
    check_outputs(tmp_path / name, tmp_path / f"{name}.npz")


@pytest.mark.parametrize("name", ["mt5-128-tiny", "token-geglu"])
def test_an_imported_model_is_tuned_and_exported(tmp_path, name):
    """What it answers here is what transformers generates with its exported checkpoint."""
    words = ["left", "right", "middle", "up", "down"]
    rows = [(str(n), words[n % 5], words[(n + 1) % 5]) for n in range(40)]
    tasks = write_supervised(
        tmp_path / "tasks",
        {"en": {"train": rows, "validation": rows[:5]}},
        vocabulary(words),
        metrics=("exact_match",),
        lengths=(24, 12),
    )
    if name in own_models.MODELS:
        own_models.write_run(own_models.MODELS[name], tmp_path / "imported")
    else:
        peer("make", tmp_path, name)
        import_hf(tmp_path / name, tmp_path / "imported")
    config = TuningConfig(steps=150, batch_size=16, base_learning_rate=0.05, dtype="float32")
    finetune(tmp_path / "imported", tasks, tmp_path / "run", config)
    options = PredictConfig(decode="greedy")
    found = pq.read_table(predict(tmp_path / "run", tasks, "validation", options)["out"])
    back = tmp_path / "back"
    export_hf(tmp_path / "run", back, vocab=tasks / VOCABULARY_PATH)
    processor = sentencepiece.SentencePieceProcessor(str(tasks / VOCABULARY_PATH))
    inputs = tokenized(back, found["inputs"].to_pylist())["ids"]
    assert inputs == [[*processor.EncodeAsIds(text), 1] for text in found["inputs"].to_pylist()]
    padded = np.zeros((len(inputs), 24), np.int32)
    for row, ids in zip(padded, inputs, strict=True):
        row[: len(ids)] = ids
    np.savez(back / "expected.npz", inputs=padded)
    peer("generate", tmp_path, back)
    with np.load(tmp_path / "back.npz") as file:
        outputs = file["greedy"].tolist()
    texts = [processor.DecodeIds([token for token in ids if token > 1]) for ids in outputs]
    assert found["prediction"].to_pylist() == texts
    assert len(set(texts)) > 1


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path):
    """Full-size models do not wait on disk for each other."""
    yield
    shutil.rmtree(tmp_path)


def lines_of_languages() -> list[str]:
    """Paragraphs in each of mC4's 101 languages."""
    known, lines = gflanguages.LoadLanguages(), []
    for code, language in languages().items():
        name = GFLANGUAGES_IDS.get(code, f"{code}_{language.script}")
        if language.mc4 and name in known:
            fields = known[name].sample_text.ListFields()
            lines += split_paragraphs(text for field, text in fields if field.name != "note")
    return lines


@pytest.mark.parametrize("version", PEERS)
@pytest.mark.parametrize(
    ("kind", "byte_fallback"),
    [("mt5", True), ("umt5", True), ("switch_transformers", True), ("switch_transformers", False)],
)
def test_tokenizers(tmp_path, kind, byte_fallback, version):
    """Ids of an exported tokenizer are the vocabulary's, and sentinels those that fill gaps."""
    lines = lines_of_languages()
    assert len(lines) > 800
    texts = ["Hello,  world!", "Übergröße 😀 日本語", "line\nbreak", "", "a <b> c", " 你好 <0x41> "]
    model = train_model([*texts, *lines], 4000, byte_fallback=byte_fallback)
    if kind == "mt5":  # user-defined pieces with a space mark
        proto = sentencepiece_model_pb2.ModelProto.FromString(add_sentinels(model))
        for piece in proto.pieces[-100:]:
            piece.piece, piece.type = f"\u2581{piece.piece}", proto.SentencePiece.USER_DEFINED
        model = proto.SerializeToString()
    elif kind == "umt5":
        model = add_sentinels(model, 300)
    (tmp_path / "given.model").write_bytes(model)
    opened = open_vocabulary(tmp_path / "given.model")
    write_tokenizer(tmp_path, opened.model)
    # By it, transformers would choose another class of tokenizer.
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    processor = sentencepiece.SentencePieceProcessor(model_proto=opened.model)
    texts += [*lines, "\U00010348 of no language"]
    special = "<extra_id_0> world <extra_id_1>!"
    found = tokenized(tmp_path, [*texts, special], version)

    def encoded(text: str) -> list[int]:
        return [*processor.EncodeAsIds(text), EOS_ID]

    ids = found["ids"]
    assert ids[:-1] == [encoded(text) for text in texts]
    last = opened.size - 1
    assert ids[-1] == [last, *encoded(" world ")[:-1], last - 1, *encoded("!")]
    assert found["spelt"] == [*ids[:-1], encoded(special)]
    # Unknown characters are special tokens, and are skipped.
    known = [number for number, one in enumerate(ids[:-1]) if UNK_ID not in one]
    assert len(known) == len(texts) if byte_fallback else len(lines) < len(known) < len(texts)
    assert [found["texts"][n] for n in known] == [processor.DecodeIds(ids[n][:-1]) for n in known]
