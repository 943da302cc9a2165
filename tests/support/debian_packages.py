"""Debian packages made here, and a stand-in for apt-get that finds them in a folder."""

import random
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb builds packages")
APT = """#!/bin/sh
# Stands in for apt-get: packages lie in a folder.
shift
if [ "$1" = --print-uris ]; then only=1; shift; fi
for package in "$@"; do
  file=$(ls {folder}/"$package"_*.deb 2>/dev/null)
  if [ -z "$file" ]; then echo "E: Unable to locate package $package" >&2; code=100; continue; fi
  if [ -n "$only" ]; then
    # The real one says nothing of a package that is there already.
    test -e "$(basename "$file")" && continue
    sum=$(sha256sum "$file" | cut -d' ' -f1)
    echo "'https://mirror.example/x.deb' $(basename "$file") $(stat -c %s "$file") SHA256:$sum"
  else
    echo "$package" >> {folder}/fetched
    cp "$file" .
  fi
done
exit ${{code:-0}}
"""


def make_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packages, with an apt-get on PATH that knows no others."""
    folder, commands = tmp_path / "mirror", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    apt = commands / "apt-get"
    apt.write_text(APT.format(folder=folder))
    apt.chmod(apt.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    return folder


def add_package(mirror: Path, name: str, files: Mapping[str, bytes | Path]) -> None:
    """Add a package of these files; a path is what a link leads to."""
    tree = mirror.parent / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: A <a@b.example>\n"
        "Description: test\n"
    )
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            (tree / path).symlink_to(content)
        else:
            (tree / path).write_bytes(content)
    command = ["dpkg-deb", "--build", "--root-owner-group", tree, mirror / f"{name}_1_all.deb"]
    subprocess.run(command, check=True, capture_output=True)


def add_cldr(mirror: Path, locales: Sequence[str], concepts: int) -> None:
    """Add those with CLDR's names of emoji; one has a made name of two words in each locale."""
    emojis = [chr(0x1F300 + number) for number in range(concepts)]
    draw = random.Random(0)

    def word() -> str:
        return "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=5))

    names = {"usr/share/doc/unicode-cldr-core/copyright": b"Licence: Unicode"}
    for locale in locales:
        lines = [
            f'<annotation cp="{emoji}" type="tts">{word()} {word()}</annotation>\n'
            for emoji in emojis
        ]
        path = f"usr/share/unicode/cldr/common/annotations/{locale}.xml"
        names[path] = "".join(lines).encode()
    lines = [f"{ord(emoji):X} ; fully-qualified\n" for emoji in emojis]
    groups = ("# group: Things\n" + "".join(lines)).encode()
    add_package(mirror, "unicode-cldr-core", names)
    add_package(mirror, "unicode-data", {"usr/share/unicode/emoji/emoji-test.txt": groups})
