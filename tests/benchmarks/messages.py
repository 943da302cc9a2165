"""Messages of user interfaces beside their English, chosen as `names` chooses names of things.

    mswitch sample supervised ui-translate --out ui
    python tests/benchmarks/messages.py ui messages
    mswitch evidence --setting names --examples messages/examples --seeds 3 --steps 2400 \
        --out runs/messages

Facts, languages, lengths and vocabulary are as many and as long as those of `mswitch evidence
--setting names`; all of them train, and each language is evaluated on messages drawn for it.
"""

import argparse
import json
from pathlib import Path

from mswitch.flows.chains.machine_settings import SETTINGS
from mswitch.pipelines.supervised.build import build_supervised
from mswitch.pipelines.supervised.samples.names import choose_facts, write_facts
from mswitch.pipelines.supervised.samples.writer import TASK_FILE
from mswitch.pipelines.vocabulary.model import MODEL_FILE

#: Of a message in either language; with 40, as for names, 2 % have more tokens than are decoded.
MAX_CHARACTERS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose messages, and make examples of them")
    parser.add_argument("sample", type=Path, help="of mswitch sample supervised ui-translate")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    names = []
    for path in sorted(options.sample.glob("rows/*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            if max(len(row["en"]), len(row["text"])) <= MAX_CHARACTERS:
                names.append({"lang": row["lang"], "emoji": row["en"], "name": row["text"]})
    english = {row["emoji"] for row in names}
    rows = choose_facts([*names, *({"lang": "en", "emoji": en, "name": en} for en in english)])
    options.out.mkdir(parents=True)
    counts = write_facts(options.out, "messages", rows)
    config = SETTINGS["names"].names
    build_supervised(
        options.out / TASK_FILE, options.out / MODEL_FILE, options.out / "examples", config
    )
    print(f"{len(rows):,} facts in {len(counts)} languages")


if __name__ == "__main__":
    main()
