"""Shows what each rule of a recipe says about a page, to tune thresholds."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.apply_rules import ask, call_step, make_edit, read_file
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.dedup.base import Dedup
from mswitch.pipelines.corpus.kept_columns import resolve_columns
from mswitch.pipelines.corpus.ledger import RULE_ERROR
from mswitch.pipelines.corpus.recipe import READ, Recipe
from mswitch.pipelines.corpus.rules.base import Edit, Rule
from mswitch.pipelines.corpus.url_normalization import normalize_url
from mswitch.pipelines.crawl.files import find_crawl_files
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.errors import UserError, printable
from mswitch.pipelines.records import Page, Rejected

_PLACE = re.compile(r"(.+)@(\d+)")
_SHOWN_CHARACTERS = 200

Found = list[dict[str, Any]]


def make_text_page(text: bytes, url: str, config: CorpusConfig) -> Page:
    """Return a page with this text, as if read from a WET record."""
    utf8 = normalize_lines(text.decode("utf-8", "replace").encode(), config.drop_metadata_lines)
    if not utf8:
        raise UserError("standard input has no text: give some, as in `inspect - < page.txt`")
    return Page(url, utf8, "", 0, "(standard input)", "")


def find_page(
    wanted: str, inputs: Sequence[str], config: CorpusConfig, recipe: Recipe
) -> tuple[Page | Rejected, Found]:
    """Find and read a page; apply the rules that judge a record before its text is extracted.

    `wanted` is a file and a record's offset (Parquet: row), such as `crawl/a.warc.gz@1234`, as in
    samples of dropped pages; or the URL of a page in `inputs` (crawl files).

    Returns:
        The page, or why it was dropped, and what these rules say.
    """
    place = _PLACE.fullmatch(wanted)
    if place and not inputs:
        inputs = [place[1]]
    elif not inputs:
        raise UserError(
            f"{wanted} is not FILE@OFFSET: give that, or --input files to search for a URL; for a "
            "file of text, use `mswitch corpus inspect - < page.txt`"
        )
    rules = [step for step in recipe.ingest if isinstance(step, Rule)]
    asked: Found = []

    def asking(method: str) -> Any:
        def note(*given: Any) -> None:
            for rule in rules:
                if rule.defines(method):
                    reason = call_step(rule, method, *given, recipe=recipe, at=wanted)
                    asked.append(_describe_result(rule, reason, {}, of=method))

        return note

    files = find_crawl_files(inputs)
    if place:
        # A sample names its files without their folders.
        files = [file for file in files if file.name == storage.get_name(place[1])]
    config = resolve_columns(config, files)
    for file in files:
        for page in read_file(file, config, asking("response_reason"), asking("url_reason")):
            at_place = place and page.source.rpartition("@")[2] == place[2]
            if at_place or normalize_url(page.url) == normalize_url(wanted):
                order = {rule.name: number for number, rule in enumerate(rules)}
                return page, sorted(asked, key=lambda result: order[result["step"]])
            asked.clear()
    shown = [storage.hide_secrets(path) for path in (*inputs, *([wanted] if place else []))]
    raise UserError(
        f"no page {shown.pop() if place else wanted} in {', '.join(shown)}: give a URL or offset "
        "that it contains"
    )


def inspect_page(
    page: Page | Rejected, recipe: Recipe, before: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Ask all rules of a recipe about a page, even after a rule that drops it.

    `before` has the results of the rules that judged the page while it was read.

    Returns:
        As JSON: `url`, `source`, `text` (its beginning), `dropped_by` (the first step that drops
        the page, with its reason, or None) and `steps`. Each step has its name (`step`), `reason`
        (to drop the page, or None), measured `values` (None: not applicable), and their `limits`
        (least, most).
    """
    steps = [dict(result) for result in before]
    if isinstance(page, Rejected):
        text = page.explained().detail
        steps.append(_describe_result(None, page.reason, {}))
    else:
        text = page.text
        for step in recipe.steps:
            if isinstance(step, Edit):
                make_edit(step, page, recipe)
                values = {name: page.columns[name] for name in step.columns}
                steps.append(_describe_result(step, None, values))
            elif isinstance(step, Dedup):
                steps.append({**_describe_result(step, None, {}), "of": "other pages"})
            elif step.is_stage:
                [reason] = ask(step, [page], recipe)
                values = {}
                if reason != RULE_ERROR:
                    at = f"{page.source} ({page.url})"
                    values = call_step(step, "describe", page, recipe=recipe, at=at)
                steps.append(_describe_result(step, reason, values, page))
    dropped = next((result for result in steps if result["reason"]), None)
    return {
        "url": page.url,
        "source": page.source,
        "text": text[:_SHOWN_CHARACTERS],
        "dropped_by": dropped and {"step": dropped["step"], "reason": dropped["reason"]},
        "steps": steps,
    }


def _describe_result(
    step: Any,
    reason: str | None,
    values: Mapping[str, Any],
    page: Page | None = None,
    of: str = "text",
) -> dict[str, Any]:
    limits = step.limits(page) if isinstance(step, Rule) and values else {}
    shown = {name: limit for name, limit in limits.items() if name in values}
    return {
        "step": step.name if step else READ,
        "of": of,
        "reason": reason,
        "values": dict(values),
        "limits": {name: list(limit) for name, limit in shown.items()},
    }


def format_inspection(inspection: Mapping[str, Any]) -> str:
    """Format the result of `inspect_page` as text: each step on a line, with its values below."""
    lines = [f"{inspection['url'] or '(no URL)'}  {inspection['source']}"]
    width = max(len(step["step"]) for step in inspection["steps"])
    for step in inspection["steps"]:
        label = f" as {step['values']['lang']}" if "lang" in step["values"] else ""
        said = f"drop: {step['reason']}" if step["reason"] else f"keep{label}"
        if step["of"] == "other pages":
            said = "compares pages with one another"
        elif step["of"] != "text":
            said += f" (by {step['of'].removesuffix('_reason')}, before its text is extracted)"
        lines.append(f"{step['step']:<{width}}  {said}")
        for name, value in step["values"].items():
            limit = "" if value is None else _format_limit(name, step["limits"])
            lines.append(f"{'':{width}}    {name} {_format_value(value)}{limit}")
    dropped = inspection["dropped_by"]
    lines.append(f"dropped by {dropped['step']}: {dropped['reason']}" if dropped else "kept")
    return "\n".join(map(printable, lines))


def _format_value(value: Any) -> str:
    if value is None:
        return "not applicable"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _format_limit(name: str, limits: Mapping[str, Sequence[float | None]]) -> str:
    if name not in limits:
        return ""
    low, high = limits[name]
    bounds = [
        f"at least {low:g}" if low is not None else "",
        f"at most {high:g}" if high is not None else "",
    ]
    return f" ({', '.join(filter(None, bounds))})"
