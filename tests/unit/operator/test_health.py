import asyncio

import aiohttp

from litefs_operator.health import health_server
from litefs_operator.metrics import Metrics
from tests.unit.operator.http_server import free_port


def ask(path: str, missing: list[str]) -> tuple[int, str]:
    metrics, port = Metrics(), free_port()
    metrics.refusals.labels("HostNetwork").inc()

    async def run() -> tuple[int, str]:
        async with (
            health_server(port, metrics, lambda: missing),
            aiohttp.ClientSession() as session,
            session.get(f"http://localhost:{port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    return asyncio.run(run())


def test_a_replica_that_waits_for_something_is_not_ready_and_says_for_what() -> None:
    assert ask("/readyz", []) == (200, "ok\n")
    assert ask("/readyz", ["the webhook is not served yet"]) == (503, "the webhook is not served yet\n")


def test_a_replica_that_is_not_ready_is_healthy() -> None:
    assert ask("/healthz", ["ending"]) == (200, "ok\n")


def test_the_metrics_are_prometheus_text() -> None:
    status, text = ask("/metrics", [])
    assert status == 200
    assert 'litefs_operator_refusals_total{reason="HostNetwork"} 1.0' in text
    assert "process_resident_memory_bytes" in text
