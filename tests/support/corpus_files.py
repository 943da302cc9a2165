"""A corpus directory as the corpus stage leaves it, written directly with pyarrow."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import crawl_files as crawl
import gflanguages
import pyarrow as pa
import pyarrow.parquet as pq
from trees import data_bytes

from mswitch.pipelines import storage
from mswitch.pipelines.outputs import canonical_json, file_sha256, stage_output

Texts = Mapping[str, Mapping[str, Sequence[str]]]

LANGUAGE_IDS = {
    "ar": "ar_Arab",
    "bg": "bg_Cyrl",
    "en": "en_Latn",
    "ko": "ko_Kore",
    "sw": "sw_Latn",
    "zh": "zh_Hans",
}


def write_corpus(
    out: Path, texts: Texts, shards: int = 1, *, clustered: bool | str = False
) -> Path:
    """Write `texts` (language, split, documents) as a published corpus of `shards` each.

    A clustered one has `cluster_size`, or a column of the given name: the length of the text,
    whatever that means.
    """
    digest = hashlib.sha256(canonical_json(texts).encode()).hexdigest()
    rows, stats = [], {}
    with stage_output(out, stage="corpus", config={"texts": digest, "shards": shards}) as staged:
        for lang, splits in texts.items():
            for split, documents in splits.items():
                stats.setdefault(lang, {})[split] = {
                    "documents": len(documents),
                    "characters": sum(map(len, documents)),
                    "bytes": sum(len(document.encode()) for document in documents),
                }
                urls = [f"https://{lang}.example/{split}/{n}" for n in range(len(documents))]
                ids = [hashlib.md5(url.encode()).hexdigest() for url in urls]
                table = sorted(zip(ids, urls, documents, strict=True))
                for number in range(shards):
                    path = f"data/{lang}/{split}-{number:05}-of-{shards:05}.parquet"
                    rows.append(
                        _write_shard(staged.directory, path, table[number::shards], clustered)
                    )
                    rows[-1].update(lang=lang, split=split)
        storage.write_json(staged.directory / "stats.json", {"languages": stats, "stages": []})
        staged.publish({"shards": rows})
    return out


def _write_shard(
    directory: Path, path: str, rows: Sequence[tuple[str, str, str]], clustered: bool | str
) -> dict:
    columns = dict(zip(("id", "url", "text"), zip(*rows, strict=True), strict=True)) if rows else {}
    table = pa.table(
        {name: pa.array(columns.get(name, ()), pa.string()) for name in ("id", "url", "text")}
    )
    if clustered:
        sizes = pa.array([len(text) for text in columns.get("text", ())], pa.int32())
        name = clustered if isinstance(clustered, str) else "cluster_size"
        table = table.append_column(name, sizes)
    (directory / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, directory / path, compression="zstd")
    size = (directory / path).stat().st_size
    return {"path": path, "rows": len(rows), "bytes": size, "sha256": file_sha256(directory / path)}


def small_texts() -> dict[str, dict[str, list[str]]]:
    """Real text in six languages, a language of very short documents, and one only to train on."""
    texts = _excerpts(LANGUAGE_IDS)
    german = gflanguages.LoadLanguages()["de_Latn"].sample_text.specimen_32
    texts["haw"] = {"train": ["Aloha.", "A", "Mahalo."], "validation": ["Ae", "Aole"]}
    texts["de"] = {"train": [german]}
    return texts


def added_texts() -> dict[str, dict[str, list[str]]]:
    """Real text in the languages that mC4 lacks."""
    return _excerpts({"hr": "hr_Latn", "bs": "bs_Latn", "sr-Latn": "sr_Latn"})


def _excerpts(names: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    entries = gflanguages.LoadLanguages()
    texts = {}
    for lang, name in names.items():
        sample = entries[name].sample_text
        paragraphs = list(dict.fromkeys(f"{sample.specimen_16}\n{sample.specimen_21}".split("\n")))
        texts[lang] = {"train": paragraphs[2:], "validation": paragraphs[:2]}
    return texts


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def write_pages(
    folder: Path, count: int, gone: int, seed: int
) -> tuple[Path, Path, list[dict[str, str]]]:
    """Write a crawl of German pages and a list of the URLs of some; give both, and these pages."""
    crawl_file, urls = folder / "pages.jsonl", folder / "urls.txt"
    pages = [
        {"url": f"http://a.example/{n}/", "text": crawl.prose(crawl.GERMAN, n, 2)}
        for n in range(count)
    ]
    crawl_file.write_text("".join(json.dumps(page) + "\n" for page in pages))
    chosen = random.Random(seed).sample(pages, gone)
    urls.write_text("".join(page["url"] + "\n" for page in chosen))
    return crawl_file, urls, chosen


def traces(corpus: str | Path, pages: Sequence[Mapping[str, str]]) -> list[str]:
    """Files of a corpus that hold a URL of these pages or a line of their text."""
    wanted = {page["url"] for page in pages}
    wanted |= {line for page in pages for line in page["text"].split("\n")}
    found = []
    for name, data in data_bytes(corpus).items():
        if name.endswith(".parquet"):
            rows = pq.read_table(pa.BufferReader(data)).to_pylist()
            values = {value for row in rows for value in row.values() if isinstance(value, str)}
            held = wanted & {line for value in values for line in value.split("\n")}
        else:
            held = {one for one in wanted if one.encode() in data}
        found += [name] if held else []
    return found
