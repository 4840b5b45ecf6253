"""Runs a generator that reads disk or compresses on worker threads, for a consumer on the event loop.

Strategy: one item is being made while the one before is being sent. That overlaps disk and network,
bounds what is held to two items, and a consumer that waits for a slow peer holds no thread meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")

Write = Callable[[bytes], Awaitable[None]]
"""Sends bytes to a peer, waiting while the peer is slow."""


async def pump(executor: Executor, items: Generator[T, None, None], take: Callable[[T], Awaitable[None]]) -> None:
    """Awaits `take` with each of `items`, which are made on threads of `executor`, never on two at once.

    Args:
        executor: its threads run `items`.
        items: is closed when this ends early, after the step that may be running.
        take: consumes one item.
    """
    loop = asyncio.get_running_loop()
    pending = executor.submit(next, items, None)
    try:
        while (item := await asyncio.wrap_future(pending, loop=loop)) is not None:
            pending = executor.submit(next, items, None)
            await take(item)
    finally:
        if not pending.done():  # a step is running: what it uses must not be closed under it
            await asyncio.gather(asyncio.wrap_future(pending, loop=loop), return_exceptions=True)
        items.close()
