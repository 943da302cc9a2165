import re
import shutil
import signal

import corpus_files
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.capped_budget import capped_budget
from mswitch.pipelines.corpus.reader import open_corpus
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.vocabulary.model import MODEL_FILE, load_vocabulary
from mswitch.pipelines.vocabulary.train import (
    BalancedText,
    VocabularyConfig,
    compute_rates,
    train_vocabulary,
)

CONFIG = VocabularyConfig(size=1200, character_coverage=0.999)


def test_layout_is_that_of_mt5(vocabulary):
    size = vocabulary.GetPieceSize()
    assert size == 1200
    assert [vocabulary.IdToPiece(token) for token in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert [vocabulary.IsByte(token) for token in (2, 3, 258, 259)] == [False, True, True, False]
    sentinels = [vocabulary.IdToPiece(size - 1 - number) for number in range(100)]
    assert sentinels == [f"<extra_id_{number}>" for number in range(100)]
    assert vocabulary.PieceToId("<extra_id_0>") == size - 1
    assert vocabulary.bos_id() == -1


@given(text=st.text())
def test_any_text_is_spelt_without_unknown_ids_or_sentinels(vocabulary, text):
    tokens = vocabulary.EncodeAsIds(text + " <extra_id_0></s>")
    assert all(2 < token < vocabulary.GetPieceSize() - 100 for token in tokens)


def test_text_comes_back_normalised(vocabulary):
    text = "Ｆｕｌｌ width,\n 人人生而自由  <extra_id_0>\tكل 🙂"
    assert vocabulary.DecodeIds(vocabulary.EncodeAsIds(text)) == (
        "Full width, 人人生而自由 <extra_id_0> كل 🙂"
    )


def test_same_text_gives_the_same_bytes_wherever_it_lies(small_corpus, small_vocabulary, tmp_path):
    shutil.copytree(small_corpus, tmp_path / "elsewhere")
    summary = train_vocabulary(tmp_path / "elsewhere", tmp_path / "vocabulary", CONFIG)
    assert not summary["reused"]
    assert summary["vocabulary_size"] == 1200
    for name in (MODEL_FILE, "manifest.json"):
        again, first = (tmp_path / "vocabulary" / name), (small_vocabulary / name)
        assert again.read_bytes() == first.read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "vocabulary" / MODEL_FILE).read_bytes()
    assert train_vocabulary(tmp_path / "elsewhere", tmp_path / "vocabulary", CONFIG)["reused"]


def test_ctrl_c_ends_sentencepiece(small_corpus, tmp_path, monkeypatch):
    """It holds Python's lock, so that no handler of Python's could."""
    train, handlers = sentencepiece.SentencePieceTrainer.Train, []

    def noted(*args: object, **options: object) -> None:
        handlers.append(signal.getsignal(signal.SIGINT))
        train(*args, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "Train", noted)
    # A background job's is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    train_vocabulary(small_corpus, tmp_path / "vocabulary", CONFIG)
    assert handlers == [signal.SIG_DFL]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_what_is_left_out_is_said(tmp_path, capsys):
    documents = [f"uno dos tres {number}" for number in range(50)]
    texts = {"es": {"train": documents}, "und": {"train": ["1"], "validation": ["2", "3"]}}
    corpus = corpus_files.write_corpus(tmp_path / "corpus", texts)
    train_vocabulary(corpus, tmp_path / "vocabulary", VocabularyConfig(size=380))
    said = capsys.readouterr().err
    assert "[vocabulary] documents whose language is uncertain (und) are left out: 3" in said


@pytest.mark.parametrize(
    ("size", "fix", "named"),
    [(200_000, "give at most", "at most"), (520, "lower --character-coverage", "at least")],
)
def test_a_size_that_text_does_not_give_names_one_that_it_does(
    small_corpus, tmp_path, size, fix, named
):
    out = tmp_path / "vocabulary"
    with pytest.raises(UserError, match=fix) as caught:
        train_vocabulary(small_corpus, out, VocabularyConfig(size=size))
    found = int(re.findall(rf"{named} (\d+)", str(caught.value))[0])
    further = VocabularyConfig(size=found + (1 if size > found else -1))
    with pytest.raises(UserError, match=named):
        train_vocabulary(small_corpus, out, further)
    assert train_vocabulary(small_corpus, out, VocabularyConfig(size=found))["out"] == str(out)


def test_hostile_characters_do_not_stop_training(tmp_path):
    text = "a\x00b \u2581\u2581 <extra_id_0> \ufeff\u202e\t</s> " + "x" * 20_000
    documents = [f"{text} {word}" for word in ("uno", "dos", "tres") for _ in range(5)]
    corpus = corpus_files.write_corpus(tmp_path / "corpus", {"es": {"train": documents}})
    train_vocabulary(corpus, tmp_path / "vocabulary", VocabularyConfig(size=380))
    vocabulary = load_vocabulary(tmp_path / "vocabulary" / MODEL_FILE)
    assert vocabulary.GetPieceSize() == 380


def test_damaged_and_missing_input(small_corpus, tmp_path):
    texts = {"es": {"validation": ["solo para validar"]}}  # which is not trained on
    corpus = corpus_files.write_corpus(tmp_path / "validation", texts)
    with pytest.raises(UserError, match="no training documents"):
        train_vocabulary(corpus, tmp_path / "v", VocabularyConfig())
    with pytest.raises(UserError, match="does not exist"):
        train_vocabulary(tmp_path / "none", tmp_path / "v", VocabularyConfig())
    shutil.copytree(small_corpus, tmp_path / "corpus")
    shard = next((tmp_path / "corpus" / "data" / "en").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    for size in (1200, 500):
        with pytest.raises(UserError, match=f"{shard.name} is damaged"):
            train_vocabulary(tmp_path / "corpus", tmp_path / "v", VocabularyConfig(size=size))
    (tmp_path / "corpus" / "stats.json").unlink()
    with pytest.raises(UserError, match=r"stats\.json cannot be read"):
        train_vocabulary(tmp_path / "corpus", tmp_path / "v", VocabularyConfig(size=1200))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"size": 300}, "--size must be at least 360, not 300"),
        # SentencePiece would refuse it too, later.
        ({"character_coverage": 0.97}, "--character-coverage must be at least 0.98 and at most 1"),
        ({"sample_characters": 0}, "--sample-characters must be at least 1"),
        ({"sampling_exponent": 2}, "--sampling-exponent must be at least 0 and at most 1"),
    ],
)
def test_settings_out_of_range(settings, named):
    with pytest.raises(UserError, match=f"^{named}"):
        VocabularyConfig(**settings)


def test_budget_is_divided_by_rate_and_capped():
    rates = compute_rates({"big": 10**6, "small": 1, "none": 0}, 0.3)
    assert list(rates) == ["big", "small"]
    assert rates["big"] / rates["small"] == pytest.approx(10**1.8)
    available = {"a": 10, "b": 1000, "c": 1000}
    shares = capped_budget({"a": 0.5, "b": 0.3, "c": 0.2}, available, 110, max_epochs=1)
    assert shares == {"a": 10, "b": 60, "c": 40}


@pytest.mark.parametrize("budget", [1, 100, 800, 10**9])
def test_the_budget_is_kept_to_the_character(small_corpus, budget):
    corpus = open_corpus(small_corpus)
    text = BalancedText(corpus, VocabularyConfig(sample_characters=budget))
    sample = list(text)
    assert sample == list(BalancedText(corpus, VocabularyConfig(sample_characters=budget)))
    taken = sum(map(len, sample))
    assert taken == sum(text.characters.values()) <= budget
    assert all(taken <= text.budgets[lang] for lang, taken in text.characters.items())
    documents = {lang: sum(s.rows for s in shards) for lang, shards in text.shards.items()}
    rates = compute_rates(documents, 0.3)
    available = {lang: corpus.characters[lang, "train"] for lang in rates}
    budgets = capped_budget(rates, available, budget, max_epochs=1)
    assert text.budgets == {lang: int(share) for lang, share in budgets.items()}
    if budget < sum(available.values()):
        assert taken >= budget - len(rates)
