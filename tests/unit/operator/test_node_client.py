import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from litefs_operator import node_client
from litefs_operator.node_client import Answer, NodeClient, Probe, Silence, read_answer

STATUS: dict[str, Any] = {
    "node_id": "00000000000000AB",
    "cluster_id": "LFSC1",
    "role": "replica",
    "candidate": True,
    "ready": True,
    "primary_hostname": "blog-0",
    "lag_ms": 120,
    "databases": [{"name": "app.db", "position": "5/8", "page_size": 4096}],
    "followers": [],
    "lease_remaining_s": 0.0,
    "standing": "5f00",
}
BEFORE = Probe(at=1.0, answer=None, answered_at=77.0)


def probe(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], before: Probe | None = None, wait_s: float = 0.0
) -> Probe:
    """Returns what a client hears of a node that answers by `handler`."""

    async def run() -> Probe:
        application = web.Application()
        application.add_routes([web.get("/status", handler)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = NodeClient()
        try:
            return await client.ask("127.0.0.1", runner.addresses[0][1], "secret", before, wait_s)
        finally:
            await client.close()
            await runner.cleanup()

    return asyncio.run(run())


def test_an_answer_is_read_with_the_token_of_the_cluster() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        return web.json_response(STATUS)

    found = probe(handler)
    assert found.answer == Answer(
        node_id="00000000000000AB",
        role="replica",
        is_ready=True,
        obstacle="",
        lag_ms=120,
        lease_remaining_s=0.0,
        positions={"app.db": "5/8"},
        standing="5f00",
    )
    assert found.answered_at > 0
    assert found.silence is None


@pytest.mark.parametrize(
    ("response", "silence"),
    [
        (lambda: web.Response(status=401), Silence.DENIED),
        (lambda: web.Response(status=404), Silence.STRANGE),
        (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), Silence.STRANGE),
        (lambda: web.Response(text="{"), Silence.STRANGE),
        (lambda: web.json_response([]), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "lag_ms": "x"}), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "node_id": "../blog"}), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "node_id": 7}), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "standing": "a&b"}), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "standing": 7}), Silence.STRANGE),
        (lambda: web.json_response({**STATUS, "databases": [1]}), Silence.STRANGE),
    ],
)
def test_what_is_no_answer_is_told_apart(response: Callable[[], web.Response], silence: Silence) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return response()

    found = probe(handler, BEFORE)
    assert (found.answer, found.silence) == (None, silence)
    assert found.message
    assert found.answered_at == 77.0


def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "BODY_BYTES_MAX", 1000)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 500)

    assert probe(handler).silence is Silence.STRANGE


def test_a_node_that_hangs_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "ANSWER_S", 0.05)

    async def handler(request: web.Request) -> web.Response:
        while request.transport is not None:  # noqa: ASYNC110 - until the client is gone
            await asyncio.sleep(0.01)
        return web.Response()

    assert probe(handler).silence is Silence.UNREACHABLE


def test_a_node_that_is_not_there_is_unreachable() -> None:
    async def run() -> Probe:
        client = NodeClient()
        try:
            return await client.ask("127.0.0.1", 1, "secret", None)
        finally:
            await client.close()

    found = asyncio.run(run())
    assert (found.silence, found.answered_at) == (Silence.UNREACHABLE, 0.0)
    assert found.message == "Connection refused"


def test_unknown_fields_are_ignored_and_absent_ones_are_unknown() -> None:
    found = read_answer({"node_id": "00000000000000AB", "role": "starting", "ready": False, "new": 1})
    assert (found.lag_ms, found.lease_remaining_s, found.positions) == (None, None, {})


KNOWN = Probe(at=1.0, answer=read_answer(STATUS), answered_at=77.0)


def test_a_node_that_is_known_is_asked_for_news() -> None:
    asked: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        return web.json_response({**STATUS, "standing": "6e11"})

    assert probe(handler, KNOWN, wait_s=1000.0).is_news_after(KNOWN)
    assert asked == [{"wait": "1000", "unlike": "5f00"}]


def test_a_node_that_waits_may_take_as_long() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query["wait"]))
        return web.json_response(STATUS)

    found = probe(handler, KNOWN, wait_s=node_client.ANSWER_S + 0.1)
    assert found.answer is not None
    assert not found.is_news_after(KNOWN)


@pytest.mark.parametrize(
    ("before", "response"),
    [
        (KNOWN, lambda: web.json_response(STATUS)),
        (
            Probe(at=1.0, answer=read_answer({**STATUS, "standing": None})),
            lambda: web.json_response({**STATUS, "standing": None}),
        ),
        (Probe(at=1.0, answer=None, silence=Silence.DENIED), lambda: web.Response(status=401)),
    ],
)
def test_a_node_that_answers_early_and_without_news_is_left_alone_for_the_rest(
    before: Probe, response: Callable[[], web.Response]
) -> None:
    asked_n = 0

    async def handler(_request: web.Request) -> web.Response:
        nonlocal asked_n
        asked_n += 1
        return response()

    begun = time.monotonic()
    probe(handler, before, wait_s=0.2)
    assert time.monotonic() - begun >= 0.2
    assert asked_n == 1


def test_more_nodes_than_may_wait_are_asked_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_client, "WAITING_MAX", 0)

    async def handler(request: web.Request) -> web.Response:
        assert not request.query
        return web.json_response({**STATUS, "standing": "6e11"})

    assert probe(handler, KNOWN, wait_s=1000.0).is_news_after(KNOWN)
