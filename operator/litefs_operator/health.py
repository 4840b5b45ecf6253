"""The operator's own HTTP: `/healthz`, `/readyz` and `/metrics`, without TLS."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from litefs_operator.metrics import Metrics


@asynccontextmanager
async def health_server(port: int, metrics: Metrics, missing: Callable[[], list[str]]) -> AsyncIterator[None]:
    """Serves until the context ends.

    Args:
        port: on every address.
        metrics: shown in Prometheus's format.
        missing: says what the replica waits for; it is ready when that is nothing.
    """

    async def healthz(_request: web.Request) -> web.Response:
        # That this answers shows that the event loop turns; a dead watch shows in the metrics, and starts anew itself.
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        waiting = missing()
        return web.Response(text="ok\n") if not waiting else web.Response(text="\n".join(waiting) + "\n", status=503)

    async def show(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", show)])
    runner = web.AppRunner(application, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
