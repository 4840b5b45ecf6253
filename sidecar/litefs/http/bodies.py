"""Request bodies read within bounds: how many bytes, and how long a peer may be silent or drip."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request

from litefs.http.errors import OversizeError, SlowPeerError

RECEIVE_DEADLINE_S = 30.0
"""Longest silence in the middle of a body; as long as a peer may take to read from us."""

RECEIVE_BYTES_MIN = 32 << 10
"""Who sends less than this in `RECEIVE_DEADLINE_S` of our waiting will never be done: the rule of an image that drips
(`node/stream_intake.py`)."""

WHOLE_BODY_DEADLINE_S = 30.0
"""For a body that is held in memory: a few megabytes, of which none need drip in."""


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    """Yields the body as it arrives.

    Raises:
        SlowPeerError: fewer than `RECEIVE_BYTES_MIN` bytes came in `RECEIVE_DEADLINE_S` seconds of waiting.
        starlette.requests.ClientDisconnect: the peer went away.
    """
    stream = request.stream()
    waited_s, received_bytes = 0.0, 0
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(RECEIVE_DEADLINE_S - waited_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SlowPeerError(f"{received_bytes} bytes of the body in {RECEIVE_DEADLINE_S} s") from None
        waited_s += time.monotonic() - began
        received_bytes += len(chunk)
        if received_bytes >= RECEIVE_BYTES_MIN:
            waited_s, received_bytes = 0.0, 0
        if chunk:
            yield chunk


async def whole_body(request: Request, bytes_max: int) -> bytes:
    """Returns the body.

    Raises:
        OversizeError: it is larger than `bytes_max`.
        SlowPeerError: it was not there within `WHOLE_BODY_DEADLINE_S` seconds, or as in `body_chunks`.
        starlette.requests.ClientDisconnect: the peer went away.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length) > bytes_max:
        raise OversizeError(f"body of {length} bytes, at most {bytes_max} are allowed")
    try:
        async with asyncio.timeout(WHOLE_BODY_DEADLINE_S):
            return await _joined(request, bytes_max)
    except TimeoutError:
        raise SlowPeerError(f"the body was not there within {WHOLE_BODY_DEADLINE_S} s") from None


async def _joined(request: Request, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in body_chunks(request):
        body += chunk
        if len(body) > bytes_max:
            raise OversizeError(f"body of more than {bytes_max} bytes")
    return bytes(body)
