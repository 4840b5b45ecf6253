"""The marked clusters: each is looked after by one worker at a time, and once for any number of marks.

    put while idle     →  waits  →  taken by a worker  →  done
    put while waiting  →  the same
    put while taken    →  waits again, once it is done

Source: client-go, util/workqueue.
"""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class WorkQueue(Generic[Item]):
    """A queue without doubles. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[Item, None] = {}
        self._taken: set[Item] = set()
        self._again: set[Item] = set()
        self._has_some = asyncio.Event()

    def put(self, item: Item) -> None:
        """Marks an item; returns at once."""
        if item in self._taken:
            self._again.add(item)
            return
        self._waiting[item] = None
        self._has_some.set()

    async def get(self) -> Item:
        """Returns the item that waits longest. The one who takes it calls `done`."""
        while not self._waiting:
            self._has_some.clear()
            await self._has_some.wait()
        item = next(iter(self._waiting))
        del self._waiting[item]
        self._taken.add(item)
        return item

    def done(self, item: Item) -> None:
        """Lets an item be taken again."""
        self._taken.discard(item)
        if item in self._again:
            self._again.discard(item)
            self.put(item)
