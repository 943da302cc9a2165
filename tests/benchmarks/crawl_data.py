"""Real text for the benchmarks: documentation packages of Debian as WET and WARC, in full.

The sample `debian` caps what it takes of a language; this takes whole packages, one after the
other, until there are as many megabytes of text. Every HTML page becomes one WARC record and one
WET record of its text.
"""

import tempfile
from pathlib import Path

from mswitch.pipelines.crawl.charsets import decode
from mswitch.pipelines.crawl.html.text import html_to_text
from mswitch.pipelines.outputs import stage_output
from mswitch.pipelines.samples import debian
from mswitch.pipelines.samples.crawl_writer import CrawlWriter, SamplePage
from mswitch.pipelines.samples.documents import detect_language

FILES = 16
_GIMP = "ca da de el es fi fr hr it ja ko lt nl nn pt ro ru sl sv zh-cn"
PACKAGES = (
    *debian.DEFAULT_PACKAGES,
    *(f"gimp-help-{lang}" for lang in _GIMP.split()),
    "python3-doc",
    "postgresql-doc",
    "openjdk-17-doc",
    "debian-handbook",
    "linux-doc",
)


def write_crawl(out: Path, megabytes: float) -> None:
    """Write wet/ and warc/ below `out` until the WET records hold `megabytes` of text."""
    config = {"packages": PACKAGES, "megabytes": megabytes}
    with (
        stage_output(out, stage="sample", config=config) as staged,
        tempfile.TemporaryDirectory() as work,
    ):
        if staged.complete:
            return
        taken = []
        with CrawlWriter(staged.directory, "bench", FILES) as writer:
            for package in PACKAGES:
                try:
                    [download] = debian.plan_downloads([package], Path(work))
                except debian.UserError as error:
                    print(f"without {package}: {error}")
                    continue
                _write_package(writer, debian.fetch(download, Path(work)), package)
                taken.append(package)
                size = writer.content_bytes["wet"] / 1e6
                print(f"{package}: {size:.0f} MB of text", flush=True)
                if size >= megabytes:
                    break
        staged.publish({**writer.manifest(), "packages": taken})


def _write_package(writer: CrawlWriter, archive: Path, package: str) -> None:
    for name, data in sorted(debian.read_files(archive).items()):
        if not name.endswith((".html", ".htm")):
            continue
        url = f"https://{package}.debian.example/{name}"
        lang = detect_language(name, package)
        text = html_to_text(decode(data).text, main_content=False)
        if text.strip():
            writer.write("warc", SamplePage(url, data, lang))
            writer.write("wet", SamplePage(url, text.encode("utf-8", "replace"), lang))
