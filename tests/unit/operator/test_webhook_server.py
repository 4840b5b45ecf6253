import asyncio
import contextlib
import io
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from litefs_operator.certificate import make_bundle
from litefs_operator.metrics import Metrics
from litefs_operator.webhook_server import BODY_BYTES_MAX, CertificateFiles, WebhookServer
from tests.unit.operator.http_server import free_port

HOST = "localhost"
REVIEW: dict[str, Any] = {
    "request": {
        "uid": "1",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": {"metadata": {}},
        "userInfo": {},
    }
}


def write_certificate(directory: Path) -> bytes:
    """Puts a new certificate into a directory. Returns its CA."""
    bundle = make_bundle(HOST, datetime.now(UTC))
    (directory / "tls.key").write_bytes(bundle.key)
    (directory / "tls.crt").write_bytes(bundle.certificate)
    return bundle.authorities


@contextlib.asynccontextmanager
async def serving(server: WebhookServer, review: Any = None) -> AsyncIterator[str]:
    """Runs a server as kopf does, and yields its URL."""

    async def echo(request: Any, **hints: Any) -> Any:
        return {"uid": request["request"]["uid"], "webhook": hints["webhook"]}

    async def serve() -> None:
        async for config in server(cast("Any", review or echo)):
            url.set_result(str(config["url"]))

    url: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve())
    try:
        async with asyncio.timeout(20):
            yield await url
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def client(authorities: bytes) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cadata=authorities.decode())
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))


def run(
    tmp_path: Path, talk: Callable[[WebhookServer, aiohttp.ClientSession, str], Awaitable[None]], review: Any = None
) -> Metrics:
    metrics = Metrics()

    async def main() -> None:
        authorities = write_certificate(tmp_path)
        server = WebhookServer(free_port(), tmp_path, metrics)
        async with serving(server, review) as url, client(authorities) as session:
            await talk(server, session, url)

    asyncio.run(main())
    return metrics


def test_a_review_is_answered_by_the_handler_that_the_path_names(tmp_path: Path) -> None:
    async def talk(_server: WebhookServer, session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(f"{url}/inject", json=REVIEW) as answer:
            assert await answer.json() == {"uid": "1", "webhook": "inject"}

    metrics = run(tmp_path, talk)
    assert metrics.registry.get_sample_value("litefs_operator_webhook_seconds_count") == 1


@pytest.mark.parametrize("metadata", [{}, {"namespace": "web"}])
def test_the_handler_sees_the_namespace_of_the_request(tmp_path: Path, metadata: dict[str, str]) -> None:
    async def show(request: Any, **_hints: Any) -> Any:
        return request["request"]["object"]["metadata"]

    async def talk(_server: WebhookServer, session: aiohttp.ClientSession, url: str) -> None:
        review = {"request": {**REVIEW["request"], "namespace": "web", "object": {"metadata": metadata}}}
        async with session.post(f"{url}/inject", json=review) as answer:
            assert await answer.json() == {"namespace": "web"}

    run(tmp_path, talk, show)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"{}", 400),
        (json.dumps({"request": {"resource": {"group": "", "version": "v1", "resource": "nodes"}}}).encode(), 404),
        (json.dumps({"request": {**REVIEW["request"], "object": None}}).encode(), 400),
        (json.dumps({"request": {**REVIEW["request"], "userInfo": None}}).encode(), 400),
        (b"x" * (BODY_BYTES_MAX + 1), 413),
    ],
)
def test_what_is_no_review_of_a_pod_is_a_bad_request(tmp_path: Path, body: bytes, status: int) -> None:
    async def talk(_server: WebhookServer, session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(f"{url}/inject", data=io.BytesIO(body)) as answer:
            assert answer.status == status

    run(tmp_path, talk)


def test_while_the_operator_ends_each_answer_closes_its_connection(tmp_path: Path) -> None:
    async def talk(server: WebhookServer, session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(f"{url}/inject", json=REVIEW) as answer:
            assert answer.headers.get("Connection") != "close"
        server.drain()
        for _ in range(2):
            async with session.post(f"{url}/inject", json=REVIEW) as answer:
                assert answer.status == 200
                assert answer.headers["Connection"] == "close"

    run(tmp_path, talk)


def test_a_request_under_way_is_answered_when_the_server_ends(tmp_path: Path) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(_request: Any, **_hints: Any) -> Any:
            begun.set()
            await go_on.wait()
            return {"late": True}

        authorities = write_certificate(tmp_path)
        async with client(authorities) as session:
            async with serving(WebhookServer(free_port(), tmp_path, Metrics()), slow) as url:
                asking = asyncio.create_task(session.post(f"{url}/inject", json=REVIEW))
                await begun.wait()
                asyncio.get_running_loop().call_later(0.05, go_on.set)
            async with await asking as answer:
                assert await answer.json() == {"late": True}

    asyncio.run(main())


def test_a_new_certificate_serves_new_connections_and_leaves_old_ones_open(tmp_path: Path) -> None:
    async def main() -> None:
        old = write_certificate(tmp_path)
        files = CertificateFiles(tmp_path)
        assert files.load()
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=files.context)
        port = server.sockets[0].getsockname()[1]
        before = await _connect(port, old)
        new = write_certificate(tmp_path)
        assert files.load()
        with pytest.raises(ssl.SSLCertVerificationError):
            await _connect(port, old)
        after = await _connect(port, new)
        for reader, writer in (before, after):
            writer.write(b"x\n")
            assert await reader.readline() == b"x\n"
            writer.close()
            await writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(main())


async def _connect(port: int, authorities: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cadata=authorities.decode())
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            writer.write(line)
    writer.close()


def test_a_pair_that_does_not_fit_leaves_the_certificate_before_in_use(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    files = CertificateFiles(tmp_path)
    assert files.load()
    (tmp_path / "tls.key").write_bytes(make_bundle(HOST, datetime.now(UTC)).key)
    assert files.load()
    (tmp_path / "tls.crt").unlink()
    assert files.load()


@pytest.mark.parametrize("content", [None, b"", b"nothing"])
def test_without_a_certificate_nothing_is_served(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tls.crt").write_bytes(content)
        (tmp_path / "tls.key").write_bytes(content)
    assert not CertificateFiles(tmp_path).load()
