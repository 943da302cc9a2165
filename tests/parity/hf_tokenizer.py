"""Tokenize by an exported tokenizer (runs where transformers is; PyTorch is not needed).

hf_tokenizer.py DIR TEXTS OUT   ids of a JSON list of texts, also of texts whose special tokens
                                are spelt out, and what the first ids become again
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

if __name__ == "__main__":
    directory, texts, out = map(Path, sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
    given = json.loads(texts.read_text())
    ids = tokenizer(given).input_ids
    spelt = tokenizer(given, split_special_tokens=True).input_ids
    # As it is saved by transformers itself, it is the same.
    tokenizer.save_pretrained(out.with_suffix(""))
    again = AutoTokenizer.from_pretrained(out.with_suffix(""))
    assert again(given).input_ids == ids
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    out.write_text(json.dumps({"ids": ids, "spelt": spelt, "texts": written}))
