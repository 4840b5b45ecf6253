"""Transactions taken from WAL frames as SQLite writes them."""

import errno
import random

import pytest

from litefs.errors import CommitRefusedError, NotPrimaryError
from litefs.formats.wal import FRAME_HEADER_SIZE, WAL_HEADER_SIZE, WalHeader, read_frames
from litefs.storage.steps import run
from litefs.storage.transaction import Change
from tests.support.faulty_disk import FaultyDisk
from tests.support.sqlite_player import PAGE_SIZE, Player, go_on
from tests.support.storage_world import World
from tests.support.wal_frames import encode_frame_header
from tests.unit.storage.replica import ModelReplica

FRAME_SIZE = FRAME_HEADER_SIZE + PAGE_SIZE
HEADER = WalHeader(big_endian=False, page_size=PAGE_SIZE, checkpoint_seq=0, salt1=1, salt2=2)


@pytest.fixture
def player(world: World) -> Player:
    """A connection to a WAL database of four pages, without frames yet."""
    player = world.player()
    world.commit(player, range(1, 5))
    world.enter_wal(player)
    assert world.database().txid == 2
    return player


def frame(pgno: int, commit: int, page: bytes) -> bytes:
    header, _ = encode_frame_header(HEADER, (0, 0), pgno, commit, page)
    return header + page


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


def write(player: Player, offset: int, data: bytes) -> None:
    go_on(player.served.wal.write(offset, data))


def at(frame_index: int) -> int:
    return WAL_HEADER_SIZE + frame_index * FRAME_SIZE


def begin(player: Player) -> None:
    write(player, 0, HEADER.encode())


def committed_page(player: Player, pgno: int) -> bytes:
    replica = ModelReplica(player.served.database)
    replica.catch_up()
    return replica.pages[pgno - 1]


@pytest.mark.parametrize("cut", [1, 3, 4, 7, 8, 23, 24, 25, 500, PAGE_SIZE, FRAME_SIZE - 1])
def test_a_frame_may_come_in_two_writes_cut_anywhere(world: World, player: Player, cut: int) -> None:
    begin(player)
    data = frame(2, 4, page(1))
    write(player, at(0), data[:cut])
    assert world.database().txid == 2
    write(player, at(0) + cut, data[cut:])
    assert world.database().txid == 3
    assert committed_page(player, 2) == page(1)


def test_a_whole_wal_may_come_in_one_write(world: World, player: Player) -> None:
    write(player, 0, HEADER.encode() + frame(2, 0, page(1)) + frame(3, 4, page(2)) + frame(2, 4, page(3)))
    assert world.database().txid == 4
    assert committed_page(player, 2) == page(3)
    assert committed_page(player, 3) == page(2)


def test_the_last_frame_of_a_page_wins(world: World, player: Player) -> None:
    begin(player)
    write(player, at(0), frame(2, 0, page(1)))
    write(player, at(1), frame(2, 4, page(2)))
    assert world.database().txid == 3
    assert committed_page(player, 2) == page(2)


def test_a_page_rewritten_in_place_counts_as_rewritten(world: World, player: Player) -> None:
    begin(player)
    write(player, at(0), frame(2, 0, page(1)))
    write(player, at(0) + FRAME_HEADER_SIZE, page(2))
    write(player, at(1), frame(3, 4, page(3)))
    assert committed_page(player, 2) == page(2)


def test_frames_behind_a_savepoint_that_was_rolled_back_are_forgotten(world: World, player: Player) -> None:
    begin(player)
    for index, pgno in enumerate((2, 3, 4)):
        write(player, at(index), frame(pgno, 0, page(pgno)))
    write(player, at(1), frame(2, 4, page(9)))
    assert world.database().txid == 3
    assert committed_page(player, 2) == page(9)
    assert committed_page(player, 3) == player.pages[2]
    assert committed_page(player, 4) == player.pages[3]


def test_a_commit_frame_repeated_up_to_the_sector_is_no_second_transaction(world: World, player: Player) -> None:
    begin(player)
    for index in range(3):
        write(player, at(index), frame(2, 4, page(1)))
    assert world.database().txid == 3


def test_headers_written_again_with_other_checksums_mean_nothing(world: World, player: Player) -> None:
    begin(player)
    write(player, at(0), frame(2, 0, page(1)))
    write(player, at(1), frame(3, 4, page(2)))
    for index, (pgno, commit) in enumerate(((2, 0), (3, 4))):
        header, _ = encode_frame_header(HEADER, (7, 7), pgno, commit, page(index + 1))
        write(player, at(index), header)
    write(player, at(2), frame(4, 4, page(3)))
    assert world.database().txid == 4
    assert [committed_page(player, pgno) for pgno in (2, 3, 4)] == [page(1), page(2), page(3)]


def test_frames_without_salts_count_and_get_them_behind_the_commit(world: World, player: Player) -> None:
    """SQLite rewrote a page in place: it leaves out salts and checksums from there, and adds them at the end."""
    replica = ModelReplica(world.database())
    begin(player)
    write(player, at(0), frame(2, 0, page(1)))
    write(player, at(1), frame(3, 0, page(2)))
    write(player, at(0) + FRAME_HEADER_SIZE, page(3))
    for index, (pgno, commit, seed) in enumerate(((4, 0, 4), (1, 4, 5)), 2):
        data = frame(pgno, commit, page(seed))
        write(player, at(index), data[:8] + bytes(16))
        write(player, at(index) + FRAME_HEADER_SIZE, data[FRAME_HEADER_SIZE:])
    assert world.database().txid == 3
    for index, (pgno, commit, seed) in enumerate(((2, 0, 3), (3, 0, 2), (4, 0, 4), (1, 4, 5))):
        write(player, at(index), frame(pgno, commit, page(seed))[:FRAME_HEADER_SIZE])
    write(player, at(4), frame(2, 4, page(6)))
    assert world.database().txid == 4
    replica.catch_up()
    assert replica.pages == [page(5), page(6), page(2), page(4)]


def test_frames_of_another_generation_are_no_transaction(world: World, player: Player) -> None:
    begin(player)
    data = frame(2, 4, page(1))
    write(player, at(0), data[:8] + b"\7" * 8 + data[16:])
    assert world.database().txid == 2


def test_a_refusal_is_repeated_and_the_frames_can_be_committed_later(world: World, player: Player) -> None:
    begin(player)
    data = frame(2, 4, page(1))
    world.gate.primary_until = 0.0
    write(player, at(0), data[:500])
    for _ in range(2):
        with pytest.raises(NotPrimaryError):
            write(player, at(0) + 500, data[500:])
    world.gate.primary_until = 2.0
    assert world.database().txid == 2
    write(player, at(0), frame(3, 4, page(2)))
    assert world.database().txid == 3
    assert committed_page(player, 2) == player.pages[1]


@pytest.mark.parametrize("cut", [0, 24, 500, PAGE_SIZE, FRAME_SIZE - 8])
@pytest.mark.parametrize("page_n", [1, 200])
def test_a_recovery_of_the_wal_does_not_find_what_was_refused(
    world: World, player: Player, cut: int, page_n: int
) -> None:
    begin(player)
    checksum = HEADER.checksum
    offset, data = at(0), b""
    for index in range(page_n):
        is_last = index == page_n - 1
        header, checksum = encode_frame_header(HEADER, checksum, index + 2, (page_n + 1) * is_last, page(index))
        data = header + page(index)
        if is_last:
            break
        write(player, offset, data)
        offset += FRAME_SIZE
    until, world.gate.primary_until = world.gate.primary_until, 0.0
    if cut:
        write(player, offset, data[:cut])
    for _ in range(2):
        with pytest.raises(NotPrimaryError):
            write(player, offset + cut, data[cut:])
    assert not [found for found in read_frames(player.served.wal.read, HEADER) if found.commit]
    world.gate.primary_until = until
    write(player, offset + cut, data[cut:])
    assert world.database().txid == 3
    assert len(list(read_frames(player.served.wal.read, HEADER))) == page_n


def test_a_transaction_without_net_change_succeeds_on_a_replica_too(world: World, player: Player) -> None:
    begin(player)
    world.gate.primary_until = 0.0
    write(player, at(0), frame(2, 4, player.pages[1]))
    assert world.database().txid == 2


def test_a_commit_in_a_wal_of_another_page_size_is_refused(world: World, player: Player) -> None:
    header = WalHeader(big_endian=False, page_size=4096, checkpoint_seq=0, salt1=1, salt2=2)
    write(player, 0, header.encode())
    with pytest.raises(CommitRefusedError, match="another page size"):
        write(player, WAL_HEADER_SIZE, frame(2, 4, page(1))[:FRAME_HEADER_SIZE])


def test_a_commit_in_the_wal_of_a_database_that_was_made_anew_with_other_pages_is_refused(
    world: World, player: Player
) -> None:
    """A file was copied over the database, and its WAL stayed."""
    begin(player)
    write(player, at(0), frame(2, 0, page(1)))
    world.database().learn_page_size(2 * PAGE_SIZE)
    with pytest.raises(CommitRefusedError, match="another page size"):
        write(player, at(1), frame(3, 4, page(2)))
    assert not [found for found in read_frames(player.served.wal.read, HEADER) if found.commit]


def test_a_commit_that_waited_for_room_in_the_log_while_its_database_was_dropped_is_refused(
    world: World, player: Player
) -> None:
    database = world.database()
    change = Change(pgnos=range(1, 61), read=page, commit=60)
    steps = database.prepare(change)
    make_segment = next(steps)
    assert make_segment is not None, "there is room"
    run(world.store.drop(player.name))
    with pytest.raises(OSError, match="dropped") as caught:
        steps.send(make_segment())
    assert caught.value.errno == errno.EBUSY
    assert (database.txid, database.page_n) == (3, 0)


@pytest.mark.parametrize("first_difference", [0, 4, 30, PAGE_SIZE])
def test_a_rewind_is_noticed_at_whichever_byte_it_begins_to_differ(
    world: World, player: Player, first_difference: int
) -> None:
    """SQLite writes whole frames anew; up to some byte they may be those that are there."""
    replica = ModelReplica(world.database())
    begin(player)
    write(player, at(0), frame(2, 4, page(1)))
    write(player, at(1), frame(3, 0, page(2)) + frame(4, 4, page(3)))
    old = frame(3, 0, page(2))
    new = old[:first_difference] + frame(2, 4, page(4))[first_difference:]
    pgno = int.from_bytes(new[:4], "big")
    for start in range(0, FRAME_SIZE, 256):
        write(player, at(1) + start, new[start : start + 256])
    if first_difference > 4:
        write(player, at(2), frame(4, 4, page(5)))
    replica.catch_up()
    assert replica.pages[pgno - 1] == new[FRAME_HEADER_SIZE:]
    assert replica.pages[3] == (page(5) if first_difference > 4 else player.pages[3])
    assert replica.pages[1] == (page(1) if pgno != 2 else new[FRAME_HEADER_SIZE:])


def test_growth_carries_pages_that_no_frame_holds(world: World, player: Player) -> None:
    begin(player)
    write(player, at(0), frame(7, 7, page(1)))
    assert committed_page(player, 5) == committed_page(player, 6) == bytes(PAGE_SIZE)
    assert world.database().page_n == 7
    world.tidy()
    player.served.write(6 * PAGE_SIZE, page(1), by_sqlite=True)
    world.tidy()
    assert world.database().base_txid == 3


def test_the_database_file_shows_what_checkpoints_wrote_and_nothing_newer(world: World, player: Player) -> None:
    old = player.content
    world.wal_commit(player, [2, 3], sync=True)
    assert player.served.read(0, 1 << 20) == old
    middle = player.content
    world.wal_commit(player, [3, 4], sync=True)
    world.checkpoint_wal(player, frame_n=3)
    assert player.served.read(0, 1 << 20) == middle
    assert world.database().base_txid == 0
    world.checkpoint_wal(player)
    assert player.served.read(0, 1 << 20) == player.content


# ---- rewinds: SQLite recovered the WAL short of committed frames (rule 3) ----


@pytest.mark.parametrize("forgotten", range(1, 6))
@pytest.mark.parametrize("checkpointed", [None, 2, 6])
@pytest.mark.parametrize("restart", [False, True], ids=["append", "restart"])
def test_replicas_do_not_diverge_when_sqlite_goes_on_behind_committed_frames(
    world: World, player: Player, forgotten: int, checkpointed: int | None, restart: bool
) -> None:
    replica = ModelReplica(world.database())
    for pgnos, page_n in (([2], None), ([3, 6], None), ([2], 5)):
        world.wal_commit(player, pgnos, page_n, sync=True)
    if checkpointed is not None:
        world.checkpoint_wal(player, checkpointed)
    world.tidy()
    replica.catch_up()
    assert replica.content == player.content
    player.forget_frames(forgotten)
    if restart:
        player.checkpoint()
        world.tidy()
    for pgnos in ([4], [2, 3]):
        world.wal_commit(player, pgnos, sync=True)
        replica.catch_up()
        assert replica.content == player.content
        world.tidy()
    player.checkpoint()
    world.tidy()
    assert world.database().base.path.read_bytes() == player.content
    assert world.database().base_txid == world.database().txid


@pytest.mark.parametrize("seed", range(8))
def test_replicas_follow_any_sequence_of_commits_checkpoints_and_rewinds(world: World, seed: int) -> None:
    rng = random.Random(seed)
    player = world.player()
    world.commit(player, range(1, 5))
    world.enter_wal(player)
    replica = ModelReplica(world.database())
    for step in range(40):
        action = rng.random()
        frame_n = len(player._frames)
        if action < 0.6 or not frame_n:
            pgnos = rng.sample(range(1, len(player.pages) + 3), rng.randint(1, 3))
            page_n = rng.choice([None, None, max(2, len(player.pages) - 2)])
            pgnos = [pgno for pgno in pgnos if page_n is None or pgno <= page_n]
            world.wal_commit(player, pgnos, page_n, sync=rng.random() < 0.5)
        elif action < 0.75:
            world.checkpoint_wal(player, rng.randint(player._backfilled, frame_n))
        elif action < 0.85 and frame_n > 3:
            player.forget_frames(rng.randint(1, 3))
        else:
            world.tidy()
        replica.catch_up()
        if action < 0.6:
            assert replica.content == player.content, f"seed {seed}, step {step}"
    assert not world.refusals
    world.wal_commit(player, [2], sync=True)
    player.close_wal()
    world.tidy()
    replica.catch_up()
    assert player.served.read(0, 1 << 20) == replica.content == player.content, f"seed {seed}"


def test_a_checkpoint_behind_committed_frames_does_not_spoil_a_restart(world: World, player: Player) -> None:
    """S is at the newest state, SQLite writes an older page over the base, and the node dies before the next commit."""
    world.wal_commit(player, [2], sync=True)
    world.wal_commit(player, [2, 3], sync=True)
    world.checkpoint_wal(player)
    world.tidy()
    assert world.database().base_txid == world.database().txid == 4
    newest = player.content
    player.forget_frames(2)
    player.checkpoint()
    world.tidy()
    assert player.served.read(0, 1 << 20) == player.content != newest
    assert world.database().base.path.read_bytes() == newest


def test_s_stays_while_the_base_shows_a_page_of_a_commit_that_sqlite_lost(world: World, player: Player) -> None:
    """Page 4 is older again; the base shows the lost one until the checkpoint comes to it."""
    world.wal_commit(player, [4], sync=True)
    world.wal_commit(player, [4], sync=True)
    world.checkpoint_wal(player)
    player.forget_frames(2)
    world.wal_commit(player, [2], sync=True)
    for pgno in (1, 2):
        player.served.write((pgno - 1) * PAGE_SIZE, player.pages[pgno - 1], by_sqlite=True)
    world.tidy()
    assert world.database().base_txid < world.database().txid
    player.checkpoint()
    world.tidy()
    assert world.database().base_txid == world.database().txid


def test_the_wal_can_be_removed_and_made_again(world: World, player: Player) -> None:
    replica = ModelReplica(world.database())
    world.wal_commit(player, [2, 3], sync=True)
    player.close_wal()
    player.served.wal.create()
    world.wal_commit(player, [3], sync=True)
    replica.catch_up()
    assert replica.content == player.content


def test_pages_that_the_lost_wal_held_are_carried_by_the_next_image(world: World, player: Player) -> None:
    """The `-wal` is deleted before it is checkpointed: SQLite sees the database file from now on."""
    replica = ModelReplica(world.database())
    world.wal_commit(player, [2, 3], sync=True)
    replica.catch_up()
    player.served.wal.unlink()
    player._header, player._frames = None, []
    player.look()
    player.served.wal.create()
    world.wal_commit(player, [4], sync=True)
    replica.catch_up()
    assert replica.content == player.content


@pytest.mark.parametrize("spoilt", [0, 1, 12, WAL_HEADER_SIZE - 1])
@pytest.mark.parametrize("cut", [1, 13, WAL_HEADER_SIZE - 1])
def test_a_header_may_be_spoilt_at_any_byte_and_come_anew_in_pieces(
    world: World, player: Player, spoilt: int, cut: int
) -> None:
    """By whatever is not SQLite, which reads no frame behind such a header: it sees the database file."""
    replica = ModelReplica(world.database())
    begin(player)
    write(player, at(0), frame(2, 4, page(1)))
    write(player, spoilt, bytes([HEADER.encode()[spoilt] ^ 1]))
    header = WalHeader(big_endian=False, page_size=PAGE_SIZE, checkpoint_seq=1, salt1=1, salt2=2).encode()
    write(player, 0, header[:cut])
    write(player, cut, header[cut:] + frame(3, 4, page(2)))
    replica.catch_up()
    assert replica.pages == [*player.pages[:2], page(2), player.pages[3]]
    assert world.database().txid == 4


def test_a_large_transaction_leaves_the_wal_ready_for_the_next(world: World, player: Player) -> None:
    replica = ModelReplica(world.database())
    for _ in range(2):
        world.wal_commit(player, range(1, 100), sync=True)
        replica.catch_up()
        assert replica.content == player.content
    world.checkpoint_wal(player)
    world.wal_commit(player, [3], 50, sync=True)
    replica.catch_up()
    assert replica.content == player.content


def test_a_failed_checkpoint_write_leaves_the_page_to_be_written_again(world: World, player: Player) -> None:
    world.wal_commit(player, [2], sync=True)
    assert isinstance(world.disk, FaultyDisk)
    world.disk.full = ("base.*",)
    with pytest.raises(OSError, match="full"):
        player.checkpoint()
    assert world.database().stale == {1, 2}
    world.disk.full = ()
    player.checkpoint()
    assert not world.database().stale
    run(world.database().settle())
    assert player.served.read(0, 1 << 20) == player.content
