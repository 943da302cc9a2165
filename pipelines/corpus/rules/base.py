"""Steps of a recipe: rules, which drop pages, and edits, which change a page before it is stored.

A rule is a class with a `name`, and either `reason`, which gets a page at a time, or `reasons`,
which gets many. Its settings are the fields of a frozen dataclass.
"""

import copy
import dataclasses
import functools
import hashlib
import math
import pickle
import shutil
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Self

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.rules.list_files import open_list
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.identities import identifying
from mswitch.pipelines.local_pool import note
from mswitch.pipelines.outputs import canonical_json
from mswitch.pipelines.records import Page

#: Lowest and highest allowed values, by name; None if there is no limit.
Limits = Mapping[str, tuple[float | None, float | None]]

#: Names of changes, besides settings, that may change a rule's results: the code of a user's rule,
#: and language labels that an earlier rule changed.
ITS_CODE, THE_LANGUAGE = "its code", "the language"

_NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


class Step:
    """An entry of a recipe's lists, preferably a dataclass; its attributes are its settings.

    Attributes:
        name: name in statistics, unique in the recipe.
        columns: columns that it adds to documents, with their Arrow types (`float32`, `string`).
        files: names of fields that hold a path or URL. The content of these files is part of a
            corpus' identity. On workers, the field has a path that they can read.
        preload: modules to import before worker processes start.
    """

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, str]] = _NO_COLUMNS
    files: ClassVar[tuple[str, ...]] = ()
    preload: ClassVar[tuple[str, ...]] = ()

    @property
    def changes_text(self) -> bool:
        """Whether the step may change the text of a page that stays."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        # Leave out cached properties, which each process computes again.
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), functools.cached_property)
        }

    def settings(self) -> dict[str, Any]:
        """Return the settings that identify this step, with hashes of its files' content."""
        settings = self.__getstate__()
        if dataclasses.is_dataclass(self):
            settings = {name: settings[name] for name in identifying(self)}
        # Leave out functions, which the recipe's source already identifies.
        settings = {k: v for k, v in settings.items() if not isinstance(v, types.FunctionType)}
        title = f"the file of rule {self.name}"
        settings |= {n: file_digest(settings[n], title) for n in self.files if settings[n]}
        for name, value in settings.items():
            try:
                canonical_json(value)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"rule {self.name} has a {type(value).__name__} in {name}, which is neither "
                    "text nor a number nor a list of these: make it a functools.cached_property"
                ) from error
        return settings

    def change(self, fields: Mapping[str, Any]) -> Self:
        """Return the step with new values of some fields."""
        if dataclasses.is_dataclass(self):
            return dataclasses.replace(self, **fields)
        changed = copy.copy(self)
        vars(changed).update(fields)
        return changed

    def detail(self, page: Page) -> str:
        """Return the text to show in a sample of a dropped page."""
        return page.text

    def prepare(self, directory: str) -> dict[str, Any]:
        """Prepare a recipe step for the workers of a build; return new values of the step's fields.

        By default, copy local files to `directory` (path or URL), which all workers can read, even
        if workers could read these files in place.
        """
        fields = {}
        for name in self.files:
            path = getattr(self, name)
            if not path or storage.is_remote(path):
                continue
            copy = f"{self.name}-{name}-{storage.get_name(path)}"
            fields[name] = storage.join(directory, copy)
            with (
                open_list(path, f"the file of rule {self.name}") as file,
                storage.publish(fields[name]) as local,
                open(local, "wb") as target,
            ):
                shutil.copyfileobj(file, target)
        return fields


class Rule(Step):
    """Decides which pages to drop, and why; define `reason` or `reasons`.

    Every worker thread has its own rules. Load slow resources in a `functools.cached_property`.

    Attributes:
        is_stage: whether statistics have a row for it; if not, its drops count as `read`.
    """

    is_stage: ClassVar[bool] = True

    def url_reason(self, url: str) -> str | None:
        """Return the list that blocks a URL, or None; a record with a blocked URL is not read."""
        return None

    def response_reason(self, headers: Sequence[tuple[str, str]], html: str) -> str | None:
        """Return the reason to drop a WARC response before its text is extracted, or None."""
        return None

    def reason(self, page: Page) -> str | None:
        """Return the reason to drop a page (lower-case letters, digits, underscores), or None."""
        raise NotImplementedError(f"{type(self).__name__} defines neither reason nor reasons")

    def reasons(self, pages: Sequence[Page]) -> Sequence[str | None]:
        """Return the reason to drop each page, or None. By default, call `reason` for each page."""

        def reason(page: Page) -> str | None:
            note(f"rule {self.name} at {page.source}")
            return self.reason(page)

        return list(map(reason, pages))

    def known_reasons(
        self, pages: Sequence[Page], changed: Collection[str]
    ) -> Sequence[str | None] | None:
        """Return the reason to drop each stored document, judged by its label and columns only.

        Args:
            pages: documents.
            changed: names of settings that changed since the corpus was built.

        Returns:
            None, the default, if labels and columns are not enough: the caller then asks `reasons`,
            which read the text.
        """
        return None

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Name the changed settings that may keep a page that was dropped before.

        By default, all settings except those that only make `limits` stricter.

        Args:
            was: the changed settings with their old values, files by their content; `ITS_CODE` and
                `THE_LANGUAGE` if these may have changed.
        """
        return [
            name
            for name, value in was.items()
            if not (moved := self.find_moved(name, value)) or not all(moved.values())
        ]

    def find_moved(self, name: str, was: Any) -> dict[str, bool]:
        """Return which `limits` a changed setting moved, and whether each limit is now stricter."""
        if not hasattr(self, name):
            return {}
        try:
            before, after = self.change({name: was}).limits(), self.limits()
        except UserError:  # the old value does not fit the other settings
            return {}
        pairs = {
            value: (after.get(value, (None, None)), limits) for value, limits in before.items()
        }
        return {value: _is_within(*pair) for value, pair in pairs.items() if pair[0] != pair[1]}

    def find_settings(self, reason: str) -> Sequence[str]:
        """Return the names of the settings that decide drops for `reason`, if known."""
        return ()

    def notes(self, page: Page) -> Iterable[Mapping[str, Any]]:
        """Return notes about a dropped page, as JSON."""
        return ()

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the page's values that the rule limits; `mswitch corpus inspect` prints them.

        It is called after `reason`. By default, return the columns that the rule adds.
        """
        return {name: page.columns[name] for name in self.columns if name in page.columns}

    def limits(self, page: Page | None = None) -> Limits:
        """Return the lowest and highest allowed value, for each value that `describe` returns."""
        return {}

    def defines(self, method: str) -> bool:
        """Return whether the rule's class overrides a method of `Rule`."""
        return getattr(type(self), method) is not getattr(Rule, method)


@dataclasses.dataclass(frozen=True)
class ListRule(Rule):
    """A rule that reads lists from the user; subclasses define `load`.

    Attributes:
        saved: file in which a build stores the result of `load` for its workers.
    """

    saved: str = dataclasses.field(default="", repr=False, kw_only=True)

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if type(self).__module__.startswith("mswitch."):
            settings.pop("saved", None)
        return settings

    def load(self) -> Any:
        """Read the user's lists, such as blocklists."""
        raise NotImplementedError

    def prepare(self, directory: str) -> dict[str, Any]:
        """Write the result of `load` to a file that every worker can read."""
        saved = storage.join(directory, f"{self.name}.pickle")
        with storage.publish(saved) as path:
            path.write_bytes(pickle.dumps(self.load()))
        return {"saved": saved}

    @functools.cached_property
    def loaded(self) -> Any:
        """Result of `load`, read from the file `saved`; without such a file, `load` is called."""
        return _read_saved(self.saved) if self.saved else self.load()


@functools.lru_cache(maxsize=4)
def _read_saved(path: str) -> Any:
    """Read lists that `ListRule.prepare` saved; the threads of a process share them."""
    return pickle.loads(storage.read_bytes(path))  # noqa: S301, of this build's own directory


class Edit(Step):
    """Changes the stored text and columns of a page. Edits come last in a recipe's ingest."""

    @property
    def changes_text(self) -> bool:
        return True

    def edit(self, page: Page) -> None:
        """Change a page's `utf8` and `columns`."""
        raise NotImplementedError

    def mask(self, beginning: str) -> str:
        """Return the beginning of a dropped page's text for samples; subclasses may mask parts."""
        return beginning


def _is_within(inner: tuple[float | None, float | None], outer: Any) -> bool:
    lows = [-math.inf if low is None else low for low, _ in (inner, outer)]
    highs = [math.inf if high is None else high for _, high in (inner, outer)]
    return lows[0] >= lows[1] and highs[0] <= highs[1]


def file_digest(path: str, title: str) -> str:
    """Return the SHA-256 of the file at a path or URL; error messages name the file `title`."""
    with open_list(path, title) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
