"""The objects of one kind, kept up to date by a list and a watch in a thread.

Strategy: of each object only a record is kept, made in the thread. The dictionary is changed in the event loop alone,
so whoever reads it there needs no lock. A watch goes on where it ended; when the API server has forgotten that place,
everything is listed anew, and what is gone is reported as gone.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from litefs_operator.errors import ExpiredError, KubeError, KubeUnavailableError
from litefs_operator.kube import KubeApi, Manifest

Record = TypeVar("Record")
ObjectKey = tuple[str, str]
"""Namespace, "" for objects that have none, and name."""

RETRY_S = (0.2, 1.0, 2.0, 5.0)
"""Pauses after failures in a row; the last is repeated."""

QUICK_S = 1.0
"""A watch that ends sooner, as behind a proxy that cuts it, is not asked for again at once."""

_log = logging.getLogger("litefs_operator.watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which objects.

    Attributes:
        what: for logs and metrics, as "pods".
        paths: of the kind, one for each namespace that is watched.
        label_selector: as the API server takes it; "" for all.
    """

    what: str
    paths: tuple[str, ...]
    label_selector: str = ""


class ObjectWatch(Generic[Record]):
    """Records of objects. For one event loop; the threads never keep the process alive."""

    def __init__(
        self,
        kube: KubeApi,
        source: Source,
        keep: Callable[[Manifest], Record],
        changed: Callable[[Record | None, Record | None], None],
    ) -> None:
        """Args: keep: makes a record; changed: is told the record before and the record now, in the event loop."""
        self.objects: dict[ObjectKey, Record] = {}
        self.heard_at = time.monotonic()
        """When the API server was heard last, in monotonic seconds."""
        self._kube = kube
        self._source = source
        self._keep = keep
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._unlisted = set(source.paths)
        self._forbidden = set[str]()
        for path in source.paths:
            threading.Thread(target=self._run, args=(path,), name=f"watch of {path}", daemon=True).start()

    def is_listed(self) -> bool:
        """Returns whether every object that there was at the start is known, where the API server lets it be known.

        A namespace that is deleted takes the rights in it along, and must not keep the others waiting.
        """
        return self._unlisted <= self._forbidden and len(self._unlisted) < len(self._source.paths)

    def _run(self, path: str) -> None:
        failures, version = 0, ""
        known: set[ObjectKey] = set()
        while True:
            try:
                if not version:
                    version = self._list(path, known)
                begun = time.monotonic()
                for place in self._follow(path, version, known):
                    version, failures = place, 0
                if time.monotonic() - begun < QUICK_S:
                    time.sleep(RETRY_S[0])
            except ExpiredError:
                version = ""
            except (KubeError, KubeUnavailableError) as error:
                _log.warning("the watch of %s: %s", self._source.what, error)
                time.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1
                # Not at once: rights that were just given take a moment to count.
                if isinstance(error, KubeError) and error.status == HTTPStatus.FORBIDDEN and failures >= len(RETRY_S):
                    self._forbidden.add(path)
            except _LoopClosedError:
                return
            except Exception:  # noqa: BLE001
                # Nobody would notice a dead thread: the objects would stand still.
                _log.exception("the watch of %s", self._source.what)
                version = ""
                time.sleep(RETRY_S[-1])

    def _list(self, path: str, known: set[ObjectKey]) -> str:
        version, found = "", set[ObjectKey]()
        for version, items in self._kube.pages(path, **self._selector()):  # noqa: B007 - the last one counts
            records = {_key(item): self._keep(item) for item in items}
            found |= records.keys()
            known.update(records)  # at once: a list that breaks has told of them, too
            self._report(self._take_page, records)
        gone = known - found
        known -= gone
        self._report(self._take_end, path, gone)
        return version

    def _follow(self, path: str, version: str, known: set[ObjectKey]) -> Iterator[str]:
        """Takes what happens, and yields the place from which to go on."""
        for event in self._kube.watch(path, version, **self._selector()):
            item = event["object"]
            version = item["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                self._report(self._hear)
            elif event["type"] == "DELETED":
                known.discard(_key(item))
                self._report(self._take, _key(item), None)
            else:
                known.add(_key(item))
                self._report(self._take, _key(item), self._keep(item))
            yield version
        self._report(self._hear)
        yield version

    def _selector(self) -> dict[str, str]:
        return {"labelSelector": self._source.label_selector} if self._source.label_selector else {}

    def _report(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError as error:
            raise _LoopClosedError from error

    # ---- in the event loop ----

    def _hear(self) -> None:
        self.heard_at = time.monotonic()

    def _take_page(self, records: dict[ObjectKey, Record]) -> None:
        for key, record in records.items():
            self._take(key, record)

    def _take_end(self, path: str, gone: set[ObjectKey]) -> None:
        for key in gone:
            self._take(key, None)
        self._unlisted.discard(path)

    def _take(self, key: ObjectKey, record: Record | None) -> None:
        self._hear()
        before = self.objects.get(key)
        if record is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = record
        if before != record:
            self._changed(before, record)


class _LoopClosedError(Exception):
    """The process ends."""


def _key(item: Manifest) -> ObjectKey:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
