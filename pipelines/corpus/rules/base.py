"""What a recipe lists: rules that drop pages, and edits that change what is stored of a page.

A rule is a class with a `name`, and either `reason`, which is asked page by page, or `reasons`,
which is asked about many pages at a time. Its settings are the fields of a frozen dataclass.
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

#: Least and most of values, by name; None where there is no limit.
Limits = Mapping[str, tuple[float | None, float | None]]

#: What may be another beside a rule's settings: the code of a user's rule, and what language rules
#: before it find.
ITS_CODE, THE_LANGUAGE = "its code", "the language"

_NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


class Step:
    """One entry of a recipe's lists. Its settings are its attributes, best those of a dataclass.

    Attributes:
        name: what statistics call it; no other entry of the recipe has it.
        columns: columns that it adds to documents, with their Arrow types (`float32`, `string`).
        files: names of fields that hold a path or URL. The content of these files is part of a
            corpus' identity, and workers find them under the path in the field.
        preload: modules that worker processes have imported before they start.
    """

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, str]] = _NO_COLUMNS
    files: ClassVar[tuple[str, ...]] = ()
    preload: ClassVar[tuple[str, ...]] = ()

    @property
    def changes_text(self) -> bool:
        """Whether it may change the text of a page that stays."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        # What a cached property holds is loaded again where the step arrives.
        kind = type(self)
        return {
            name: value
            for name, value in vars(self).items()
            if not isinstance(getattr(kind, name, None), functools.cached_property)
        }

    def settings(self) -> dict[str, Any]:
        """Return what identifies this step besides its code: files by their content."""
        settings = self.__getstate__()
        if dataclasses.is_dataclass(self):
            settings = {name: settings[name] for name in identifying(self)}
        # A function is code, which is part of a recipe's source.
        settings = {k: v for k, v in settings.items() if not isinstance(v, types.FunctionType)}
        what = f"the file of rule {self.name}"
        settings |= {n: file_digest(settings[n], what) for n in self.files if settings[n]}
        for name, value in settings.items():
            try:
                canonical_json(value)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"rule {self.name} holds a {type(value).__name__} in {name}, which is neither "
                    "text nor numbers nor lists of them: make it a functools.cached_property"
                ) from error
        return settings

    def change(self, fields: Mapping[str, Any]) -> Self:
        """Return the step with other values for some fields."""
        if dataclasses.is_dataclass(self):
            return dataclasses.replace(self, **fields)
        changed = copy.copy(self)
        vars(changed).update(fields)
        return changed

    def detail(self, page: Page) -> str:
        """Return what samples of dropped pages show of one."""
        return page.text

    def prepare(self, directory: str) -> dict[str, Any]:
        """Return fields as workers need them; called once, where a build starts.

        By default, files on this machine are copied there, whether workers could see them or not.

        Args:
            directory: path or URL of a directory that all workers can read.
        """
        fields = {}
        for name in self.files:
            path = getattr(self, name)
            if not path or storage.is_remote(path):
                continue
            copy = f"{self.name}-{name}-{storage.name_of(path)}"
            fields[name] = storage.join(directory, copy)
            with (
                open_list(path, f"the file of rule {self.name}") as file,
                storage.publish(fields[name]) as local,
                open(local, "wb") as target,
            ):
                shutil.copyfileobj(file, target)
        return fields


class Rule(Step):
    """Says which pages to drop, and why; define `reason` or `reasons`.

    Every worker thread has its own rules: what takes long to load belongs into a
    `functools.cached_property`.

    Attributes:
        is_stage: whether statistics have a row for it; otherwise its drops count as `read`.
    """

    is_stage: ClassVar[bool] = True

    def url_reason(self, url: str) -> str | None:
        """Name the list that blocks a URL, whose record is not read then, or None."""
        return None

    def response_reason(self, headers: Sequence[tuple[str, str]], html: str) -> str | None:
        """Return why not to extract a WARC response, or None."""
        return None

    def reason(self, page: Page) -> str | None:
        """Return why to drop a page, in lower-case letters, digits and underscores, or None."""
        raise NotImplementedError(f"{type(self).__name__} defines neither reason nor reasons")

    def reasons(self, pages: Sequence[Page]) -> Sequence[str | None]:
        """Return `reason` for each page."""

        def reason(page: Page) -> str | None:
            note(f"rule {self.name} at {page.source}")
            return self.reason(page)

        return list(map(reason, pages))

    def known_reasons(
        self, pages: Sequence[Page], changed: Collection[str]
    ) -> Sequence[str | None] | None:
        """Return `reasons` for documents of a corpus by their labels and columns alone.

        Args:
            pages: documents.
            changed: which settings are not those that the corpus was built with.

        Returns:
            None, as by default, where these do not tell: then `reasons` are asked of the text.
        """
        return None

    def find_looser(self, was: Mapping[str, Any]) -> list[str]:
        """Name the changed settings by which it may keep a page that it dropped before.

        By default all but those that move nothing but `limits`, and these inwards.

        Args:
            was: the changed settings with their former values, files by their content; `ITS_CODE`
                and `THE_LANGUAGE` if these may be another.
        """
        return [
            name
            for name, value in was.items()
            if not (moved := self.find_moved(name, value)) or not all(moved.values())
        ]

    def find_moved(self, name: str, was: Any) -> dict[str, bool]:
        """Return which `limits` a setting moved from its former value, and whether inwards."""
        if not hasattr(self, name):
            return {}
        try:
            before, after = self.change({name: was}).limits(), self.limits()
        except UserError:  # not a value beside the others as they are now
            return {}
        pairs = {
            value: (after.get(value, (None, None)), limits) for value, limits in before.items()
        }
        return {value: _is_within(*pair) for value, pair in pairs.items() if pair[0] != pair[1]}

    def find_settings(self, reason: str) -> Sequence[str]:
        """Return the settings that a reason to drop a page depends on, as far as it is known."""
        return ()

    def notes(self, page: Page) -> Iterable[Mapping[str, Any]]:
        """Return what to note of a page that was dropped, as JSON."""
        return ()

    def describe(self, page: Page) -> Mapping[str, Any]:
        """Return the values that `reason` compared with its limits, for `mswitch corpus inspect`.

        Called after it. By default, the columns that the rule adds.
        """
        return {name: page.columns[name] for name in self.columns if name in page.columns}

    def limits(self, page: Page | None = None) -> Limits:
        """Return least and most that a page may have of each value in `describe`."""
        return {}

    def defines(self, method: str) -> bool:
        """Tell whether its class overrides a method of `Rule`."""
        return getattr(type(self), method) is not getattr(Rule, method)


@dataclasses.dataclass(frozen=True)
class ListRule(Rule):
    """A rule with lists of the user's; define `load`.

    Attributes:
        saved: where a build keeps what it has read for its workers.
    """

    saved: str = dataclasses.field(default="", repr=False, kw_only=True)

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if type(self).__module__.startswith("mswitch."):  # hashes of users' rules have it
            settings.pop("saved", None)
        return settings

    def load(self) -> Any:
        """Read the lists."""
        raise NotImplementedError

    def prepare(self, directory: str) -> dict[str, Any]:
        """Write what is read where every worker can read it."""
        saved = storage.join(directory, f"{self.name}.pickle")
        with storage.publish(saved) as path:
            path.write_bytes(pickle.dumps(self.load()))
        return {"saved": saved}

    @functools.cached_property
    def loaded(self) -> Any:
        """What `load` returned where the build was started, or does here."""
        return _read_saved(self.saved) if self.saved else self.load()


@functools.lru_cache(maxsize=4)
def _read_saved(path: str) -> Any:
    """Read what `prepare` wrote; the threads of a process share it."""
    return pickle.loads(storage.read_bytes(path))  # noqa: S301, of this build's own directory


class Edit(Step):
    """Changes what is stored of a page. Edits come last in the ingest of a recipe."""

    @property
    def changes_text(self) -> bool:
        return True

    def edit(self, page: Page) -> None:
        """Change a page: `utf8` and `columns`."""
        raise NotImplementedError

    def mask(self, beginning: str) -> str:
        """Return the beginning of a text, of a page that is dropped, as samples may show it."""
        return beginning


def _is_within(inner: tuple[float | None, float | None], outer: Any) -> bool:
    """Return whether all that is within some limits is within others."""
    lows = [-math.inf if low is None else low for low, _ in (inner, outer)]
    highs = [math.inf if high is None else high for _, high in (inner, outer)]
    return lows[0] >= lows[1] and highs[0] <= highs[1]


def file_digest(path: str, what: str) -> str:
    """Return the SHA-256 of a file, by path or URL; `what` is what an error calls it."""
    with open_list(path, what) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
