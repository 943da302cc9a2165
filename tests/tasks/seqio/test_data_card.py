"""The seqio code that a corpus' data card gives its reader."""

import re

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines.corpus.card import render_card
from mswitch.pipelines.corpus.config import CorpusConfig


def test_the_card_teaches_seqio_code_that_runs(tmp_path):
    (tmp_path / "data" / "sw").mkdir(parents=True)
    texts = {"train": ["moja", "mbili\ntatu"], "validation": ["nne"]}
    for split, values in texts.items():
        for number, text in enumerate(values):
            path = f"data/sw/{split}-{number:05}-of-{len(values):05}.parquet"
            pq.write_table(pa.table({"id": ["0"], "text": [text]}), tmp_path / path)
    size = {"documents": 1, "characters": 9, "bytes": 9}
    stats = {
        "languages": {"sw": {"train": size, "validation": size}},
        "stages": [],
        "lines": {"in": 0, "out": 0, "dropped": {}},
    }
    config = CorpusConfig().settings()
    card = render_card(config, {"inputs": [], "shards": []}, stats)
    [code] = [block for block in re.findall(r"```python\n(.*?)```", card, re.S) if "seqio" in block]
    names = {"corpus": str(tmp_path)}
    exec(code, names)
    for split, values in texts.items():
        rows = names["source"].get_dataset(split, shuffle=False).as_numpy_iterator()
        assert [row["text"].decode() for row in rows] == values
