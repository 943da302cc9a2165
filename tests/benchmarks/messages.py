"""Messages of user interfaces beside their English, chosen as `names` chooses names of things.

    mswitch sample supervised ui-translate --out ui
    python tests/benchmarks/messages.py ui messages
    mswitch evidence --setting names --examples messages/examples --seeds 3 --steps 2400 \
        --out runs/messages

Facts, languages, lengths and vocabulary are as many and as long as those of `mswitch evidence
--setting names`, and all of them train. Evaluated are nearly the same messages in all languages.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from flows.evidence.settings import SETTINGS
from pipelines.supervised.build import build_supervised
from pipelines.supervised.samples.names import EVALUATED, VOCABULARY, facts
from pipelines.supervised.samples.writer import TASK_FILE, write_rows, write_task
from pipelines.vocabulary.model import MODEL_FILE
from pipelines.vocabulary.train import train_model

#: Characters of an English message; of the others `names` has a bound.
MAX_CHARACTERS = 40


def main() -> None:
    """Choose messages, train a vocabulary and make examples."""
    parser = argparse.ArgumentParser(description="Choose messages, and make examples of them")
    parser.add_argument("sample", type=Path, help="of mswitch sample supervised ui-translate")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    names = []
    for path in sorted(options.sample.glob("rows/*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if len(row["en"]) <= MAX_CHARACTERS:
                names.append({"lang": row["lang"], "emoji": row["en"], "name": row["text"]})
    english = {row["emoji"] for row in names}
    rows = facts([*names, *({"lang": "en", "emoji": en, "name": en} for en in english)])
    taken = Counter[str]()
    evaluated = []
    for row in sorted(rows, key=lambda row: row["id"].partition("/")[2]):
        if taken[row["lang"]] < EVALUATED:
            taken[row["lang"]] += 1
            evaluated.append(row)
    options.out.mkdir(parents=True)
    write_rows(options.out / "train.jsonl", rows)
    write_rows(options.out / "validation.jsonl", evaluated)
    write_task(
        options.out,
        name="messages",
        files={"train": "train.jsonl", "validation": "validation.jsonl"},
        inputs="{lang}: {en}",
        targets="{text}",
        language="{lang}",
        group="{id}",
        id="{id}",
        metrics=["exact_match"],
    )
    lines = (line for row in rows for line in (f"{row['lang']}: {row['en']}", row["text"]))
    (options.out / MODEL_FILE).write_bytes(train_model(lines, VOCABULARY))
    config = SETTINGS["names"].names
    assert config is not None
    build_supervised(
        options.out / TASK_FILE, options.out / MODEL_FILE, options.out / "examples", config
    )
    print(f"{len(rows):,} facts in {len(taken)} languages, {len(evaluated)} of them evaluated")


if __name__ == "__main__":
    main()
