"""A transaction asks for room before it begins, where SQLite has a word for a full disk."""

import errno
from pathlib import Path

import pytest

from litefs.formats.journal import JOURNAL_HEADER_SIZE
from litefs.storage.disk import Disk
from litefs.storage.free_space import ASK_PAGES, BELIEVED_S, RESERVE_BYTES, FreeSpace
from tests.support.faulty_disk import FaultyDisk
from tests.support.sqlite_player import JournalEnd, Player, Refusal
from tests.support.storage_world import World


class SmallDisk(Disk):
    """Says what the test wants it to have left."""

    def __init__(self) -> None:
        self.left = 0
        self.asked_n = 0

    def free_bytes(self, label: str, path: Path | str) -> int:
        self.asked_n += 1
        return self.left


@pytest.fixture
def player(world: World, monkeypatch: pytest.MonkeyPatch) -> Player:
    monkeypatch.setattr("litefs.storage.free_space.BELIEVED_S", 0.0)
    player = world.player()
    world.commit(player, range(1, 6))
    return player


def fill(world: World) -> None:
    assert isinstance(world.disk, FaultyDisk)
    world.disk.full = ("space.*",)


@pytest.mark.parametrize("left", [0, RESERVE_BYTES - 1, RESERVE_BYTES, RESERVE_BYTES + 99])
def test_what_is_needed_must_leave_the_reserve(tmp_path: Path, left: int) -> None:
    disk = SmallDisk()
    disk.left = left
    with pytest.raises(OSError, match="No space") as refused:
        FreeSpace(disk, tmp_path, lambda: 1.0).check(100)
    assert refused.value.errno == errno.ENOSPC
    disk.left = RESERVE_BYTES + 100
    FreeSpace(disk, tmp_path, lambda: 1.0).check(100)


def test_the_file_system_is_asked_once_in_a_while(tmp_path: Path) -> None:
    disk, now = SmallDisk(), 5.0
    disk.left = 1 << 40
    space = FreeSpace(disk, tmp_path, lambda: now)
    for _ in range(3):
        space.check(1)
    assert disk.asked_n == 1
    disk.left = 0
    now += 2 * BELIEVED_S
    with pytest.raises(OSError, match="No space"):
        space.check(1)
    assert disk.asked_n == 2


class AskedDisk(FaultyDisk):
    """Counts how often it was asked."""

    asked_n = 0

    def free_bytes(self, label: str, path: Path | str) -> int:
        self.asked_n += 1
        return super().free_bytes(label, path)


def test_databases_that_are_written_in_turn_ask_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("litefs.storage.free_space.BELIEVED_S", 3600.0)
    disk = AskedDisk(tmp_path)
    world = World(tmp_path, disk)
    for player in [world.player(f"{number}.db") for number in range(5)]:
        world.commit(player, range(1, 6))
    world.close()
    assert disk.asked_n == 1


@pytest.mark.parametrize("sync", [True, False])
def test_a_journal_is_refused_with_its_first_write(world: World, player: Player, sync: bool) -> None:
    fill(world)
    with pytest.raises(OSError, match="No space"):
        player.begin(player.change([2]), sync=sync)
    file = player.served.journal.file
    assert file is not None
    assert file.size == 0
    player.roll_back()
    assert world.database().txid == 1


def test_a_journal_that_protected_nothing_is_ended_without_a_question(world: World, player: Player) -> None:
    """PERSIST: the header of a transaction that was rolled back before its first sync is zeroed nevertheless."""
    journal = player.served.journal
    player.begin(player.change([2]), sync=True)
    journal.is_active = False
    fill(world)
    player.end(JournalEnd.PERSIST)
    assert world.database().txid == 1


def test_a_transaction_asks_again_while_it_grows_and_is_rolled_back_on_a_full_disk(
    world: World, player: Player
) -> None:
    after = player.change(range(1, 3 * ASK_PAGES))
    player.begin(after, sync=True)
    fill(world)
    with pytest.raises(OSError, match="No space"):
        player.write_pages(after, sync=True)
    player.roll_back()
    assert player.served.read(0, player.served.size) == player.content
    assert world.database().txid == 1


def test_frames_are_refused_with_the_first_of_a_transaction(world: World, player: Player) -> None:
    player.enter_wal()
    world.wal_commit(player, [2], sync=True)
    end = player.served.wal.tail
    fill(world)
    with pytest.raises(Refusal):
        player.wal_commit(player.change([2, 3]))
    assert player.served.wal.tail == end
    assert isinstance(world.disk, FaultyDisk)
    world.disk.full = ()
    world.wal_commit(player, [3], sync=True)
    assert world.database().txid == 4


def test_a_replica_applies_into_the_reserve(world: World, player: Player) -> None:
    world.gate.primary_until = 0.0
    fill(world)
    player.begin(player.change([2]), sync=False)
    assert player.served.journal.is_active
    assert player.served.journal.file is not None
    assert player.served.journal.file.size > JOURNAL_HEADER_SIZE
