"""Calls the rules and edits of a recipe, and reports their exceptions."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.ledger import ERROR, RULE_ERROR, Ledger
from mswitch.pipelines.corpus.recipe import Recipe
from mswitch.pipelines.corpus.rules.base import Edit, Rule, Step
from mswitch.pipelines.crawl.columns import parse_columns
from mswitch.pipelines.crawl.fields import Reading, map_fields
from mswitch.pipelines.crawl.files import CrawlFile
from mswitch.pipelines.crawl.http_response import Reserved
from mswitch.pipelines.crawl.pages import Blocked, read_pages
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.local_pool import note
from mswitch.pipelines.records import Page, Rejected

_REASON = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OWN = "mswitch.pipelines."
_REASONS = ("url_reason", "response_reason")


def pass_rules(
    rules: Sequence[Rule], pages: Sequence[Page], recipe: Recipe, ledger: Ledger
) -> Sequence[Page]:
    """Apply rules in order; return the pages that pass all, and count drops in the ledger."""
    for rule in rules:
        kept = ledger.sort_out(rule, pages, ask(rule, pages, recipe))
        pages = [pages[number] for number in kept]
    return pages


def apply(pages: Sequence[Page], recipe: Recipe) -> list[Page]:
    """Return the edited pages that pass a recipe's rules; a `beam.Map` can call this.

    This deduplicates nothing, and skips rules that judge records while they are read.
    """
    ledger = Ledger(stages=recipe.stages)
    kept = pass_rules([*recipe.rules, *recipe.marks], pages, recipe, ledger)
    for page in kept:
        for edit in recipe.edits:
            make_edit(edit, page, recipe)
    return list(pass_rules(recipe.finish, kept, recipe, ledger))


def ask(rule: Rule, pages: Sequence[Page], recipe: Recipe) -> Sequence[str | None]:
    """Return a rule's reason to drop each page; None keeps it."""
    before = _collect_columns(pages)
    reasons = _ask(rule, pages, recipe)
    if pages:
        note(f"at {pages[-1].source}")
    _check_declared(rule, _collect_columns(pages) - before, recipe)
    return reasons


def _collect_columns(pages: Sequence[Page]) -> set[str]:
    return set().union(*(page.columns for page in pages))


def _check_declared(step: Step, new: set[str], recipe: Recipe) -> None:
    """Refuse undeclared columns, which would be lost. Names that begin with _ are private notes."""
    for column in sorted(new - step.columns.keys()):
        if not column.startswith("_"):
            raise UserError(
                f"{step.name} of recipe {recipe.name} sets page.columns[{column!r}], which its "
                "columns do not declare: add it there with its type"
            )


def _ask(rule: Rule, pages: Sequence[Page], recipe: Recipe) -> Sequence[str | None]:
    try:
        if pages:
            note(f"rule {rule.name} at {pages[0].source}")
        reasons = rule.reasons(pages)
        if len(reasons) != len(pages):
            # Do not retry page by page: with a single page, a faulty rule may return the right
            # number of reasons by chance.
            raise UserError(
                f"rule {rule.name} of recipe {recipe.name} returned {len(reasons)} reasons for "
                f"{len(pages)} pages: return one for each, None to keep it"
            )
        for reason in reasons:
            _check_reason(reason)
    except UserError:
        raise
    except Exception as error:
        # An exception in a rule of mswitch is a defect, so keep its traceback.
        if recipe.on_error == "fail" and type(rule).__module__.startswith(_OWN):
            raise
        if len(pages) > 1:
            # Find the page that causes the error.
            return [reason for page in pages for reason in _ask(rule, [page], recipe)]
        [page] = pages
        raised = f"{rule.name} of recipe {recipe.name} raised {type(error).__name__}: {error}"
        if recipe.on_error == "drop":
            page.columns[ERROR] = f"rule {raised}"
            return [RULE_ERROR]
        raise UserError(
            f"rule {raised}, at {page.source} ({page.url}): fix the rule, or give the recipe "
            "on_error='drop'"
        ) from error
    return reasons


def _check_reason(reason: Any) -> None:
    if reason is not None and not (isinstance(reason, str) and _REASON.fullmatch(reason)):
        raise ValueError(
            f"reason {reason!r} is not a name in lower-case letters, digits and underscores"
        )


def make_edit(edit: Edit, page: Page, recipe: Recipe) -> None:
    """Apply an edit to a page."""
    before = set(page.columns)
    call_step(edit, "edit", page, recipe=recipe, at=f"{page.source} ({page.url})")
    _check_declared(edit, page.columns.keys() - before, recipe)


def call_step(step: Step, method: str, *given: Any, recipe: Recipe, at: str) -> Any:
    """Call a method of a recipe step; error messages contain `at`, the name of the page or file."""
    kind = "edit" if isinstance(step, Edit) else "rule"
    note(f"{kind} {step.name} at {at}")
    try:
        said = getattr(step, method)(*given)
        if method in _REASONS:
            _check_reason(said)
        return said
    except UserError:
        raise
    except Exception as error:
        if type(step).__module__.startswith(_OWN):
            raise
        raise UserError(
            f"{kind} {step.name} of recipe {recipe.name} raised {type(error).__name__}: {error} "
            f"in {method}, at {at}: fix the {kind}"
        ) from error
    finally:
        note(f"at {at}")


def read_file(
    file: CrawlFile,
    config: CorpusConfig,
    reserved: Reserved | None = None,
    blocked: Blocked | None = None,
) -> Iterator[Page | Rejected]:
    """Read a file with the settings of a build; see `read_pages`."""
    reading = Reading(
        config.max_record_bytes,
        config.drop_metadata_lines,
        config.html_main_content,
        map_fields(config.field),
        parse_columns(config.keep),
    )
    return read_pages(file, reading, reserved, blocked)


def read_allowed(
    file: CrawlFile, recipe: Recipe, config: CorpusConfig
) -> Iterator[Page | Rejected]:
    """Read a file; extract no text from pages that rules drop by URL, headers or HTML."""

    def first(method: str) -> Any:
        rules = [s for s in recipe.ingest if isinstance(s, Rule) and s.defines(method)]

        def reason(*given: Any) -> str | None:
            said = (call_step(s, method, *given, recipe=recipe, at=file.name) for s in rules)
            return next(filter(None, said), None)

        return reason if rules else None

    return read_file(file, config, first("response_reason"), first("url_reason"))
