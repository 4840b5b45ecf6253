"""Responses whose body is produced while it is sent, with a deadline on the peer.

Strategy: the producer writes through a function that waits while the peer is slow. A peer that takes nothing for
`SEND_DEADLINE_S` is dropped; a peer that goes away ends the producer at once, also while it waits for news. A body that
cannot be finished ends in a reset connection, so that no peer takes what it has for the whole.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from litefs.errors import LiteFSError
from litefs.http.errors import SlowPeerError
from litefs.http.pump import Write

CONNECTION_EXTENSION = "litefs.connection"
"""Key of the ASGI extension by which the server offers functions: `abort` resets the connection (or stream);
`set_dead_after` has that done when the peer acknowledges, or takes, nothing for so many seconds; `sign_n` counts the
signs of life that came from the peer since: empty lines, or in HTTP/2 answers to pings, one of which it sends."""

SEND_DEADLINE_S = 30.0
"""Longest time in which a peer takes nothing. Longer than any pause of ours, shorter than TCP's own 15 minutes."""

ABORTED_S = 1.0
"""A reset connection is reported as gone within one turn of the loop; this bounds the wait for it."""

logger = logging.getLogger(__name__)


class ProducedResponse(Response):
    """A response of unknown length (unless a header gives it), written by a function."""

    def __init__(
        self,
        produce: Callable[[Write], Awaitable[None]],
        *,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Args: produce: is awaited with a function that sends bytes; it may raise any `LiteFSError`."""
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.body = b""
        self.init_headers(headers)
        self.raw_headers = [header for header in self.raw_headers if header != (b"content-length", b"0")]
        self._produce = produce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends headers and body; returns when the body is complete or the peer is gone."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(_disconnected(receive))
        body = asyncio.create_task(self._send_body(send))
        try:
            await asyncio.wait({gone, body}, return_when=asyncio.FIRST_COMPLETED)
            if not body.done() or body.exception() is None:
                return
            error = body.exception()
            logger.warning("%s: the response is cut off: %s", scope["path"], error, exc_info=_unexpected(error))
            await _abort(scope, gone)
        finally:
            gone.cancel()
            body.cancel()
            await asyncio.gather(gone, body, return_exceptions=True)

    async def _send_body(self, send: Send) -> None:
        async def write(data: bytes) -> None:
            try:
                async with asyncio.timeout(SEND_DEADLINE_S):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except TimeoutError:
                raise SlowPeerError(f"the peer took nothing for {SEND_DEADLINE_S} s") from None

        await self._produce(write)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _unexpected(error: BaseException | None) -> BaseException | None:
    return None if isinstance(error, LiteFSError) else error


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _abort(scope: Scope, gone: asyncio.Task[None]) -> None:
    connection = scope.get("extensions", {}).get(CONNECTION_EXTENSION)
    if connection is None:
        return  # a server without it closes the connection: the response is not complete
    connection["abort"]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ABORTED_S):
            await gone
