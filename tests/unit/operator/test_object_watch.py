import asyncio
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from litefs_operator import object_watch
from litefs_operator.errors import ExpiredError, KubeError, KubeUnavailableError
from litefs_operator.object_watch import ObjectWatch, Source

Manifest = dict[str, Any]
PATH = "/api/v1/pods"


def pod(name: str, value: int, version: int = 1) -> Manifest:
    return {"metadata": {"namespace": "web", "name": name, "resourceVersion": str(version)}, "value": value}


def event(kind: str, manifest: Manifest) -> Manifest:
    return {"type": kind, "object": manifest}


class Script:
    """An API server that lists and watches as it is told, call by call; then its watch is silent."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.calls: list[str] = []
        self.is_over = threading.Event()

    def pages(self, _path: str, **_query: Any) -> Iterator[tuple[str, list[Manifest]]]:
        self.calls.append("list")
        for number, page in enumerate(self._next()):
            if isinstance(page, Exception):
                raise page
            yield str(100 + number), page

    def watch(self, _path: str, version: str, **_query: Any) -> Iterator[Manifest]:
        self.calls.append(f"watch {version}")
        if not self.steps:
            self.is_over.set()
            threading.Event().wait()
        for step in self._next():
            if isinstance(step, Exception):
                raise step
            yield step

    def _next(self) -> Any:
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def follow(*steps: Any) -> tuple[dict[str, int], list[tuple[int | None, int | None]], list[str]]:
    """Runs a watch through its script. Returns what it knows then, what it told, and what it asked."""
    script = Script(*steps)
    told: list[tuple[int | None, int | None]] = []

    async def run() -> dict[str, int]:
        watch: ObjectWatch[int] = ObjectWatch(
            cast("Any", script),
            Source(what="pods", paths=(PATH,)),
            lambda manifest: int(manifest["value"]),
            lambda before, now: told.append((before, now)),
        )
        await asyncio.wait_for(asyncio.to_thread(script.is_over.wait), 20)
        await asyncio.sleep(0)
        assert watch.is_listed()
        return {name: value for (_, name), value in watch.objects.items()}

    return asyncio.run(run()), told, script.calls


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_watch, "RETRY_S", (0.0, 0.0))


def test_a_list_of_several_pages_is_known_before_the_watch() -> None:
    known, told, calls = follow([[pod("a", 1)], [pod("b", 2)]])
    assert known == {"a": 1, "b": 2}
    assert told == [(None, 1), (None, 2)]
    assert calls == ["list", "watch 101"]


def test_changes_are_told_with_what_was_before() -> None:
    events = [event("MODIFIED", pod("a", 5, 102)), event("ADDED", pod("b", 7, 103)), event("DELETED", pod("a", 5, 104))]
    known, told, calls = follow([[pod("a", 1)]], events)
    assert known == {"b": 7}
    assert told == [(None, 1), (1, 5), (None, 7), (5, None)]
    assert calls == ["list", "watch 100", "watch 104"]


def test_a_change_of_what_is_not_kept_is_not_told() -> None:
    _, told, _ = follow([[pod("a", 1)]], [event("MODIFIED", pod("a", 1, 102))])
    assert told == [(None, 1)]


def test_a_bookmark_moves_the_place_from_which_the_watch_goes_on() -> None:
    bookmark = event("BOOKMARK", {"metadata": {"resourceVersion": "150"}})
    assert follow([[]], [bookmark])[2] == ["list", "watch 100", "watch 150"]


def test_after_an_outage_the_watch_goes_on_where_it_was() -> None:
    calls = follow([[pod("a", 1)]], KubeUnavailableError("gone"))[2]
    assert calls == ["list", "watch 100", "watch 100"]


def test_a_forgotten_place_means_a_new_list_and_what_is_gone_is_told() -> None:
    known, told, calls = follow([[pod("a", 1), pod("b", 2)]], ExpiredError(410, "too old"), [[pod("b", 3)]])
    assert known == {"b": 3}
    assert told == [(None, 1), (None, 2), (2, 3), (1, None)]
    assert calls == ["list", "watch 100", "list", "watch 100"]


def test_what_came_by_the_watch_and_is_gone_at_the_next_list_is_told() -> None:
    known, told, _ = follow([[]], [event("ADDED", pod("a", 1, 101))], ExpiredError(410, "too old"), [[]])
    assert known == {}
    assert told == [(None, 1), (1, None)]


def test_what_a_list_told_that_broke_and_is_gone_at_the_next_is_told() -> None:
    known, told, calls = follow([[pod("a", 1)], KubeUnavailableError("gone")], [[pod("b", 2)]])
    assert known == {"b": 2}
    assert told == [(None, 1), (None, 2), (1, None)]
    assert calls == ["list", "list", "watch 100"]


def test_a_watch_that_breaks_goes_on_after_the_last_that_it_told() -> None:
    events = [event("MODIFIED", pod("a", 2, 102)), KubeUnavailableError("gone")]
    _, told, calls = follow([[pod("a", 1)]], events)
    assert told == [(None, 1), (1, 2)]
    assert calls == ["list", "watch 100", "watch 102"]


def test_an_object_that_cannot_be_read_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    broken = event("ADDED", {"metadata": {"namespace": "web", "name": "x", "resourceVersion": "101"}})
    known, _, calls = follow([[pod("a", 1)]], [broken], [[pod("a", 2)]])
    assert known == {"a": 2}
    assert calls == ["list", "watch 100", "list", "watch 100"]
    assert "the watch of pods" in caplog.text


class Rights:
    """An API server that lists some paths, and forbids or does not answer the others; its watches are silent."""

    def __init__(self, refusals: dict[str, Exception]) -> None:
        self.refusals = refusals
        self.tries = 0
        self.was_tried_often = threading.Event()
        self.is_watched = threading.Event()

    def pages(self, path: str, **_query: Any) -> Iterator[tuple[str, list[Manifest]]]:
        if path in self.refusals:
            self.tries += 1
            if self.tries > 100:
                self.was_tried_often.set()
                threading.Event().wait()
            raise self.refusals[path]
        yield "1", [pod("a", 1)]

    def watch(self, _path: str, _version: str, **_query: Any) -> Iterator[Manifest]:
        self.is_watched.set()
        threading.Event().wait()
        yield {}


@pytest.mark.parametrize(
    ("refusals", "is_listed"),
    [
        ({"/green": KubeError(403, "no")}, True),
        ({"/blue": KubeError(403, "no"), "/green": KubeError(403, "no")}, False),
        ({"/green": KubeError(500, "no")}, False),
        ({"/green": KubeUnavailableError("no")}, False),
    ],
    ids=["one forbidden", "all forbidden", "one failing", "one unreachable"],
)
def test_a_forbidden_namespace_keeps_the_others_from_nothing(refusals: dict[str, Exception], is_listed: bool) -> None:
    server = Rights(refusals)

    async def run() -> bool:
        source = Source(what="pods", paths=("/blue", "/green"))
        watch = ObjectWatch(cast("Any", server), source, lambda manifest: manifest, lambda _before, _now: None)
        assert not watch.is_listed()
        await asyncio.wait_for(asyncio.to_thread(server.was_tried_often.wait), 20)
        if "/blue" not in refusals:
            await asyncio.wait_for(asyncio.to_thread(server.is_watched.wait), 20)
            await asyncio.sleep(0)
        return watch.is_listed()

    assert asyncio.run(run()) is is_listed
