"""Everything of the HTTP API that lives as long as the process: the feed, the worker threads, the server."""

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from litefs.http.api import create_app
from litefs.http.feed import CommitFeed
from litefs.http.live_streams import LiveStreams
from litefs.http.log_needs import LogNeeds
from litefs.http.node_view import NodeView
from litefs.http.replication import StreamSettings
from litefs.http.server import HttpServer

WORKER_THREADS = 4
"""They read disks and compress, one step at a time: two are busy at a full network, the others wait for the link."""

logger = logging.getLogger(__name__)


async def serve(
    node: NodeView,
    listener: socket.socket,
    settings: StreamSettings,
    stopping: asyncio.Event,
    on_streams: Callable[[LiveStreams], None] = lambda _streams: None,
    *,
    token: str = "",
    open_metrics: bool = False,
) -> None:
    """Serves the API of `node` until `stopping` is set; then ends the streams in good order.

    Args:
        node: what is served.
        listener: where; closed at the end.
        settings: of the replication streams.
        stopping: ends the service.
        on_streams: is given the replication streams, before the first is open.
        token: what every request but those for health must carry; "" lets everybody in.
        open_metrics: nor those for metrics.
    """
    executor = ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="http-worker")
    feed = CommitFeed(node)
    needs = LogNeeds(node, feed, settings.remembered_s)
    streams = LiveStreams(feed, needs)
    on_streams(streams)
    server = HttpServer(create_app(node, feed, executor, settings, streams, token, open_metrics=open_metrics))
    host, port = listener.getsockname()[:2]
    logger.info("HTTP API at http://%s:%d", f"[{host}]" if ":" in host else host, port)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stop = asyncio.create_task(stopping.wait())
    keeping = asyncio.create_task(needs.keep_saying())
    try:
        await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
        feed.close()
        server.stop()
        await serving
    finally:
        stop.cancel()
        keeping.cancel()
        executor.shutdown(wait=False, cancel_futures=True)
