"""Requests that meet a file which is just becoming a database.

The kernel does not wait for `release`, in which a filled file is committed: whoever opens the file next may come
while that is under way, and is to find the database.
"""

from litefs.filesystem.loop import Loop
from litefs.storage.served import ServedDatabase

WAIT_POLL_S = 0.0005
"""How often a request that has to wait for a load or a state file looks again."""


async def let_load_commit(loop: Loop, served: ServedDatabase | None) -> None:
    """Waits until no load is being committed. One that was refused is still there after it."""
    while served is not None and served.load is not None and served.load.is_committing:
        await loop.sleep(WAIT_POLL_S)


async def end_load(loop: Loop, served: ServedDatabase) -> None:
    """Ends a load without a result, its threads included: they write where the next database of this name is."""
    if served.load is not None:
        served.load.give_up()
        await let_load_commit(loop, served)
    if served.load is not None:
        served.load.discard()
        served.load = None
