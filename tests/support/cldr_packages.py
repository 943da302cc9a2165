"""Debian's packages with CLDR's names of emoji, with made names."""

import random
from collections.abc import Sequence
from pathlib import Path

from debian_packages import add_package


def add_cldr(mirror: Path, locales: Sequence[str], concepts: int) -> None:
    """Add both packages; an emoji has a name of two words in each locale."""
    emojis = [chr(0x1F300 + number) for number in range(concepts)]
    draw = random.Random(0)

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5))

    def write_names(tree: Path) -> None:
        folder = tree / "usr/share/unicode/cldr/common/annotations"
        folder.mkdir(parents=True)
        for locale in locales:
            lines = [
                f'<annotation cp="{emoji}" type="tts">{word()} {word()}</annotation>\n'
                for emoji in emojis
            ]
            (folder / f"{locale}.xml").write_text("".join(lines), "utf-8")

    def write_groups(tree: Path) -> None:
        path = tree / "usr/share/unicode/emoji/emoji-test.txt"
        path.parent.mkdir(parents=True)
        lines = [f"{ord(emoji):X} ; fully-qualified\n" for emoji in emojis]
        path.write_text("# group: Things\n" + "".join(lines))

    add_package(mirror, "unicode-cldr-core", write_names)
    add_package(mirror, "unicode-data", write_groups)
