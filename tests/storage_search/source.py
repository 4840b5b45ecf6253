"""The primary that one of the databases follows: its states, and the images that lead from each to the next.

It lies beside the store that is searched, and no power cut meets it.
"""

import random
from pathlib import Path

from litefs.storage.log_reader import LogReader
from litefs.storage.steps import run
from tests.storage_search.limits import PAGES_MAX
from tests.storage_search.model import State
from tests.support.faulty_disk import QuickDisk
from tests.support.storage_world import World

FOLLOWED = "r.db"


class Source:
    """States and images by transaction."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        """Args: root: an empty directory."""
        self._draw = draw
        self._world = World(root, QuickDisk())
        self._player = self._world.player(FOLLOWED)
        self.states: dict[int, State] = {}

    def image(self, txid: int) -> bytes:
        """Returns the image of a transaction, the last or the next one."""
        database = self._world.database(FOLLOWED)
        if txid > database.txid:
            self._commit()
        reader = LogReader(database.log.directory)
        try:
            (ref,) = reader.images(txid, txid)
            return reader.read(ref, 0, ref.size)
        finally:
            reader.close()

    def _commit(self) -> None:
        draw, player, database = self._draw, self._player, self._world.database(FOLLOWED)
        before = len(player.pages)
        page_n = before if before and draw.random() < 0.6 else draw.randint(1, PAGES_MAX)
        pgnos = [pgno for pgno in range(1, page_n + 1) if draw.random() < 0.3]
        holes = [pgno for pgno in range(max(before, 1) + 1, page_n) if draw.random() < 0.4]
        player.commit(player.change(pgnos, page_n, holes=holes))
        run(database.settle())
        self.states[database.txid] = State(database.txid, player.content, player.page_size)

    def close(self) -> None:
        """Closes its store."""
        self._world.close()
