"""A cache that mswitch wrote, read by seqio alone: nothing of ours can be imported there."""

import json

import pytest
from example_files import stored
from processes import output_of

pytestmark = [pytest.mark.timeout(600)]

READ = """
import json, sys
sys.modules["mswitch"] = None
import seqio

examples, name = sys.argv[1:]
vocabulary = seqio.SentencePieceVocabulary(f"{examples}/vocabulary/sentencepiece.model")
seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(lambda split, shuffle_files: None, ["train", "validation"]),
    preprocessors=[seqio.CacheDatasetPlaceholder(required=True)],
    output_features={
        "inputs": seqio.Feature(vocabulary, add_eos=False, required=False),
        "targets": seqio.Feature(vocabulary, add_eos=False),
    },
)
seqio.set_global_cache_dirs([examples])
task = seqio.get_mixture_or_task(name)
found = {"statistics": task.get_cached_stats("train")}
for split in ("train", "validation"):
    dataset = task.get_dataset(
        {"inputs": 64, "targets": 64}, split=split, use_cached=True, shuffle=False
    )
    found[split] = [
        {feature: tokens.tolist() for feature, tokens in example.items()}
        for example in dataset.as_numpy_iterator()
    ]
found["text"] = vocabulary.decode(found["train"][0]["targets"])
print(json.dumps(found))
"""


def test_seqio_alone_reads_the_cache(small_examples, tmp_path):
    printed = output_of("-P", "-c", READ, small_examples, "mc4.sw", cwd=tmp_path)
    found = json.loads(printed.splitlines()[-1])
    features = ("inputs", "targets")
    for split in ("train", "validation"):
        records = stored(small_examples, "sw", split)
        written = [{name: r[name].tolist() for name in features if name in r} for r in records]
        assert found[split] == written
    assert found["statistics"]["examples"] == len(found["train"]) > 10
    assert {*found["train"][0]} == {"targets"}
    assert len(found["text"]) > 20
