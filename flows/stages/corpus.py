"""`mswitch corpus`: plan, build, inspect, change and check a corpus."""

from typing import Annotated

from annotated_types import Ge, Le
from cyclopts import App, Parameter

from mswitch.flows.stages.common import BeamOptions, Json, finish, print_result
from mswitch.flows.stages.stage import Summary, stage
from mswitch.pipelines.corpus.build import CorpusConfig, build_corpus
from mswitch.pipelines.corpus.removal import Basis
from mswitch.pipelines.dataflow_prices import Cost
from mswitch.pipelines.runners import RunnerName

Config = Annotated[CorpusConfig, Parameter(name="*", consume_multiple=True)]

app = App(
    name="corpus",
    help="Plan, build, inspect, change and check an mC4-style corpus.",
)


@stage(app, "corpus build", makes="corpora")
def build(
    *beam_options: BeamOptions,
    input: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    out: str,
    badwords: str | None = None,
    config: CorpusConfig = CorpusConfig(),
    runner: RunnerName = "local",
    append: bool = False,
    from_: Annotated[str, Parameter(name="--from")] = "",
    cost: Cost = Cost(),
) -> Summary:
    """Build a corpus: Parquet per language and split, from WET, WARC, ARC, JSONL or Parquet.

    Deduplicates URLs and lines, applies mC4's length and paragraph rules, identifies languages
    with CLD3 and splits by URL hash. The defaults are mC4's.

        mswitch corpus build --input 'crawl/*.warc.wet.gz' --out corpus
        mswitch corpus build --from corpus --out stricter --set badwords.badwords_filter_fraction=1

    Args:
        input: paths, quoted globs or URLs (gs://, s3://, https://) of WET, WARC, ARC or JSONL files
            (plain, gzip or zstd) or Parquet; JSONL and Parquet need text and url, or --field. A
            split of the Hugging Face Hub is hf://datasets/OWNER/NAME[@REVISION]/CONFIG/SPLIT.
        out: the directory to make, or a URL such as gs://bucket/corpus.
        badwords: a directory of bad-word lists in the layout of LDNOOBW, such as a clone of it:
            one file per language, one entry a line. Without it no page is dropped for its words.
        runner: where the work is done: local, worker processes of this machine; or a Beam runner.
        append: add the input to the finished corpus at --out. Its documents and their split stay.
            Pages and lines that it already has (with profile modern, near-duplicates) are dropped;
            the rest becomes new shards.
        from_: a finished corpus in place of --input. Repeat its options and change some: only rules
            whose settings changed judge its documents again, from its labels and columns if they
            can. Nothing is read or deduplicated again.
    """
    return build_corpus(
        input or [],
        out,
        config,
        badwords=badwords,
        runner=runner,
        beam_options=beam_options,
        append=append,
        source_corpus=from_,
        cost=cost,
    )


@app.command
def inspect(
    page: Annotated[str, Parameter(allow_leading_hyphen=True)],
    *,
    input: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    url: str = "",
    badwords: str = "",
    config: Config = CorpusConfig(),
    json: Json = False,
) -> int:
    """Show the verdict of each rule of a recipe on one page, with the values that rules compare.

    All rules are shown, also those after a rule that drops the page.

        mswitch corpus inspect crawl/a.warc.gz@1234 --profile modern
        mswitch corpus inspect http://example.org/ --input 'crawl/*.gz' --recipe my_recipe.py
        mswitch corpus inspect - < page.txt

    Args:
        page: FILE@OFFSET, as samples of dropped pages name it; a URL of a page in --input; or -
            for text on standard input.
        input: as for `corpus build`.
        url: URL of the text on standard input.
        badwords: as for `corpus build`.
    """
    import sys

    from mswitch.pipelines.corpus.inspection import (
        find_page,
        format_inspection,
        inspect_page,
        make_text_page,
    )

    recipe = config.load(config.source(), badwords)
    before = []
    if page == "-":
        inspected = make_text_page(sys.stdin.buffer.read(), url, config)
    else:
        inspected, before = find_page(page, input, config, recipe)
    said = inspect_page(inspected, recipe, before)
    return print_result(said, format_inspection(said), json)


@app.command
def plan(
    *,
    input: Annotated[list[str], Parameter(consume_multiple=True, negative="")],
    config: Config = CorpusConfig(),
    workers: int = 1,
    mb_per_second: float | None = None,
    prices: str = "",
    json: Json = False,
) -> int:
    """Estimate a corpus build's cost and result: list its input files, and build only one of them.

    It shows dropped and kept pages by language, shuffled fingerprints (at most), buckets, shards,
    temporary storage and CPU hours. For each job on Dataflow it shows hours of vCPUs, memory and
    disk, shuffled bytes, requests, and the price in batch and with FlexRS, from the lowest to the
    highest. The unit prices are examples whose source is not checked: give yours by --prices.

        mswitch corpus plan --input 'gs://bucket/crawl/*.gz' --workers 500 --prices mine.csv

    Args:
        input: as for `corpus build`.
        workers: worker processes at a time; on Dataflow one for each vCPU.
        mb_per_second: megabytes of ingested text that a worker builds in a second; by default as
            measured on the built file.
        prices: a CSV of unit prices in place of mswitch's examples
            (docs/how-to/limit-the-cost.md).
    """
    from mswitch.pipelines.corpus.plan import format_plan, plan_build

    planned = plan_build(
        input,
        config,
        workers=workers,
        mb_per_second=mb_per_second,
        prices=prices,
    )
    return print_result(planned, format_plan(planned), json)


@app.command
def fit(
    corpus: str,
    *,
    out: str,
    reference: str = "",
    min_documents: Annotated[int, Ge(1)] = 100,
    stop_words: str = "",
    weights: str = "",
    max_weight: Annotated[int, Ge(2), Le(100)] = 5,
    cluster_size: str = "cluster_size",
    html: str = "",
    json: Json = False,
) -> int:
    """Fit quality limits to each language, on corpora that were measured but not filtered.

    Most limits cut about as much text of each language as English limits cut of English.
    Languages with little text keep the common limits. The table shows how much is dropped of each
    language, with common limits and with its own.

        mswitch corpus fit measured --reference good --out fitted.csv

    To measure a corpus, build it with `--profile modern --set quality.drop=false`. To use the
    limits, build with `--profile modern --set quality.thresholds=fitted.csv`.

    Args:
        corpus: a measured corpus of a crawl, or its URL.
        out: the CSV of limits to write.
        reference: a measured corpus of good text, such as an encyclopedia. Lengths of words and
            lines, ends of lines and stop words are fitted on it; without it, on the crawl, with its
            spam.
        min_documents: fewest documents of a language to fit its limits.
        stop_words: a CSV to write for `--set quality.stop_words=`: the most frequent words of each
            language, of which a page needs two.
        weights: a CSV to write for `examples build --weights`. It repeats documents in training by
            the size of their cluster of near-duplicates, if these limits drop fewer documents of
            that size than of all.
        max_weight: most repetitions of a document in --weights.
        cluster_size: column with the size of these clusters, such as minhash_cluster_size if the
            corpus keeps that of its input.
        html: a page to write, or its URL: drops of each rule and language before and after, and
            pages that a limit newly drops or keeps.
    """
    from mswitch.pipelines.corpus.fit import SAMPLES, fit_thresholds, format_fit
    from mswitch.pipelines.outputs import check_output_files

    check_output_files(
        out=out, stop_words=stop_words or None, weights=weights or None, html=html or None
    )
    fitted = fit_thresholds(
        corpus,
        out,
        reference=reference,
        min_documents=min_documents,
        stop_words=stop_words,
        weights=weights,
        max_weight=max_weight,
        cluster_size=cluster_size,
        samples=SAMPLES if html else 0,
    )
    if html:
        from mswitch.flows.reports.corpus_page import write_fit_page

        write_fit_page(fitted, html)
    return print_result(fitted, format_fit(fitted), json)


@app.command
def remove(
    corpus: str,
    *beam_options: BeamOptions,
    urls: str = "",
    sites: str = "",
    ids: str = "",
    basis: Basis,
    reference: str = "",
    search: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = (),
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    runner: RunnerName = "local",
    json: Json = False,
) -> int:
    """Remove pages from a finished corpus and from the parts that were added later.

    Shards, samples of dropped pages, statistics, manifest and card no longer have them; `removals/`
    has a record. Pages and lines that were dropped as duplicates of a removed page do not return.

        mswitch corpus remove corpus --urls urls.txt --basis copyright --reference T-17 --dry-run

    Args:
        corpus: a corpus directory or its URL.
        urls: a file of URLs, one a line; `#` begins a comment.
        sites: a file of hosts; it removes all pages of these and of hosts below them.
        ids: a file of documents' ids.
        basis: reason, for the record.
        reference: reference of the request, for the record, such as a ticket's number; no name of
            a person.
        search: directories with vocabularies, examples and runs; those made from the old corpus are
            listed.
        dry_run: count the pages to remove, and change nothing.
        runner: as for `corpus build`.
    """
    from mswitch.pipelines.corpus.removal import remove_pages

    summary = remove_pages(
        corpus,
        urls=urls,
        sites=sites,
        ids=ids,
        basis=basis,
        reference=reference,
        search=search,
        dry_run=dry_run,
        runner=runner,
        beam_options=beam_options,
    )
    if dry_run:
        count = summary["removed_documents"]
        return print_result(summary, f"{corpus}: {count:,} documents would be removed", json)
    return finish(summary, json)


@app.command
def push(
    corpus: str,
    *,
    repo: str,
    public: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Publish a finished corpus, with card and statistics, as a data set on the Hugging Face Hub.

    What was dropped, records of removals and fingerprints are not published. The repository then
    has this corpus: shards of an earlier push that it lacks are deleted, but stay in the history.
    A push that was killed continues. The token is that of `hf auth login`, or HF_TOKEN.

        mswitch corpus push corpus --repo my-organization/my-corpus

    Args:
        corpus: a corpus directory or its URL.
        repo: OWNER/NAME of the data set; there is no default. It is made if it does not exist.
        public: let everybody read a repository that is made; without it, it is private.
    """
    from mswitch.pipelines.corpus.push import push_corpus

    pushed = push_corpus(corpus, repo, public=public)
    text = f"{corpus}: {pushed['files']:,} files in {repo}, revision {pushed['revision']}"
    return print_result(pushed, text, json)


@app.command
def verify(corpus: str, *, json: Json = False) -> int:
    """Read a whole corpus and compare it with its manifest; exit with 1 if they differ.

    It checks sizes and checksums, missing and extra files, the rows of every shard, accounts and
    removals. It lists the files that it does not check, such as the data card, which people edit.

        mswitch corpus verify corpus

    Args:
        corpus: a corpus directory or its URL.
    """
    from mswitch.pipelines.corpus.verify import verify_corpus

    verified = verify_corpus(corpus)
    counts = f"{verified['files']:,} files, {verified['documents']:,} documents"
    lines = [*verified["problems"], f"{corpus}: {len(verified['problems'])} problems, {counts}"]
    if verified["unchecked"]:
        lines.append(f"not checked, without a checksum: {', '.join(verified['unchecked'])}")
    print_result(verified, "\n".join(lines), json)
    return 1 if verified["problems"] else 0


@app.command
def stats(corpus: str, *, html: str = "", json: Json = False) -> int:
    """Print documents, characters and bytes per language, and drops per stage.

    With `--html`, read the shards too and write a page with sites, scripts, language scores, and
    samples of dropped pages.

        mswitch corpus stats corpus --html corpus-stats.html

    Args:
        corpus: a corpus directory or its URL.
        html: the page to write, or its URL, outside the corpus directory.
    """
    from mswitch.pipelines.corpus.stats import format_stats, load_stats

    summary = {"stage": "corpus", "out": corpus, **load_stats(corpus)}
    if html:
        from mswitch.flows.reports.corpus_page import write_page

        summary |= {"html": html, "survey": write_page(corpus, html)}
    more = f"\n\n{html}: sites, scripts, scores and samples" if html else ""
    return print_result(summary, f"{format_stats(corpus)}{more}", json)
