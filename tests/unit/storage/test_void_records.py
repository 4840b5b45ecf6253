"""Images that were taken back, and what a restart makes of the log around them."""

import time
from pathlib import Path

import pytest

from litefs.storage.data_dir import DataDir
from litefs.storage.database import CommitGate, StoreSettings
from litefs.storage.disk import Disk
from litefs.storage.log_reader import LogReader
from litefs.storage.store import Store
from tests.support.sqlite_player import Player

SEGMENT_BYTES = 24 << 10


class Opened:
    """A store over a data directory, from start to stop."""

    def __init__(self, path: Path) -> None:
        self.data_dir = DataDir(path, Disk())
        gate = CommitGate(float("inf"), time.monotonic)
        self.store = Store(self.data_dir, Disk(), StoreSettings(node_id=1, segment_bytes=SEGMENT_BYTES), gate)
        self.store.open(lambda name, done, total: None)

    def close(self) -> None:
        self.store.close()
        self.data_dir.close()


def take_one_back(player: Player) -> None:
    """A transaction that was prepared by its fsync and then rolled back: its image is voided."""
    after = player.change([3])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    player.roll_back()


@pytest.mark.parametrize("next_page_n", [2, 40], ids=["same segment", "next segment"])
@pytest.mark.parametrize("void_n", [1, 3])
def test_commits_behind_a_voided_image_survive_a_restart(tmp_path: Path, next_page_n: int, void_n: int) -> None:
    """The next image takes the place of the voided one, or, too large for the segment, leaves it behind."""
    opened = Opened(tmp_path)
    player = Player(opened.store)
    player.commit(player.change([1, 2, 3]))
    for _ in range(void_n):
        take_one_back(player)
    assert player.served.database.txid == 1
    player.commit(player.change(range(1, next_page_n)))
    player.commit(player.change([2]))
    segment_n = len(list((opened.store.directory("a.db") / "log").glob("*.ltxlog")))
    assert segment_n == (1 if next_page_n == 2 else 3)
    opened.close()

    opened = Opened(tmp_path)
    database = opened.store.databases["a.db"].database
    assert database.txid == 3
    assert database.base.read(0, 1 << 20) == player.content
    reader = LogReader(opened.store.directory("a.db") / "log")
    assert [ref.min_txid for ref in reader.images(1, 3)] == [1, 2, 3]
    reader.close()
    opened.close()


def test_a_voided_image_at_the_end_is_not_recovered(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    player = Player(opened.store)
    player.commit(player.change([1, 2, 3]))
    take_one_back(player)
    opened.close()
    opened = Opened(tmp_path)
    database = opened.store.databases["a.db"].database
    assert (database.txid, database.base.read(0, 1 << 20)) == (1, player.content)
    opened.close()
