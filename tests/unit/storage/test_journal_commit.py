"""Transactions in rollback modes: what commits, what is refused when, and what changes nothing."""

import pytest

from litefs.errors import CommitRefusedError, DiskLostError, NotPrimaryError, UncapturedWriteError
from litefs.formats.journal import JOURNAL_HEADER_SIZE
from litefs.storage.log_format import RecordState
from litefs.storage.recovery import scan_log
from litefs.storage.steps import run
from tests.support.faulty_disk import FaultyDisk, QuickDisk
from tests.support.sqlite_player import (
    PAGE_SIZE,
    JournalEnd,
    Player,
    commit_together,
    commit_together_steps,
    page_one,
)
from tests.support.storage_world import World
from tests.unit.storage.replica import ModelReplica


@pytest.fixture
def player(world: World) -> Player:
    """A connection to a database of four pages."""
    player = world.player()
    world.commit(player, range(1, 5))
    return player


def faulty(world: World) -> FaultyDisk:
    assert isinstance(world.disk, FaultyDisk)
    return world.disk


def shown(player: Player) -> bytes:
    return player.served.read(0, player.served.size)


def live_txids(world: World) -> list[int]:
    """The images that the log holds on disk and that are not void."""
    found = scan_log(QuickDisk(), world.database().log.directory)
    found.close(QuickDisk())
    return [record.header.max_txid for record in found.records if record.header.state is RecordState.LIVE]


@pytest.mark.parametrize("end", JournalEnd)
@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
def test_every_end_of_a_journal_commits(world: World, player: Player, end: JournalEnd, sync: bool) -> None:
    replica = ModelReplica(world.database())
    for pgnos, page_n in (([2], None), ([3, 6], None), ([2], 3), ([4, 5], None)):
        player.commit(player.change(pgnos, page_n), sync=sync, end=end)
        replica.catch_up()
        assert shown(player) == replica.content == player.content
    assert world.database().txid == 5


def test_a_durable_commit_costs_one_sync(world: World, player: Player) -> None:
    world.commit(player, [2])
    before = len(faulty(world).calls)
    world.commit(player, [2, 3])
    calls = faulty(world).calls[before:]
    assert [call for call in calls if "sync" in call] == ["log.sync"]
    assert calls.index("log.sync") < calls.index("base.write")


def test_a_commit_without_sync_costs_none_and_keeps_the_base_behind_the_log(world: World, player: Player) -> None:
    before = len(faulty(world).calls)
    old = player.content
    world.commit(player, [2, 3], sync=False)
    assert faulty(world).calls[before:] == ["log.append"]
    assert world.database().base.path.read_bytes() == old
    assert shown(player) == player.content
    run(world.database().settle())
    assert faulty(world).calls[before:].index("log.sync") < faulty(world).calls[before:].index("base.write_run")
    assert world.database().base.path.read_bytes() == player.content


def test_uncommitted_pages_show_to_readers_and_never_reach_base_or_log(world: World, player: Player) -> None:
    old, calls = player.content, len(faulty(world).calls)
    after = player.change([2, 6])
    player.begin(after, sync=True)
    player.write_pages(after, sync=False)
    assert shown(player) == b"".join(after)
    assert world.database().base.path.read_bytes() == old
    assert not [call for call in faulty(world).calls[calls:] if call.startswith(("log.", "base."))]
    player.roll_back()
    assert shown(player) == old
    assert world.database().txid == 1


def test_writes_of_parts_of_pages_are_seen_whole(world: World, player: Player) -> None:
    after = player.change([2])
    player.begin(after, sync=False)
    player.served.write(PAGE_SIZE - 10, b"x" * 20, by_sqlite=True)
    player.served.truncate(2 * PAGE_SIZE + 100, by_sqlite=True)
    player.served.write(2 * PAGE_SIZE + 200, b"y", by_sqlite=True)
    expected = bytearray(player.content[: 2 * PAGE_SIZE + 100])
    expected[PAGE_SIZE - 10 : PAGE_SIZE + 10] = b"x" * 20
    expected += bytes(100) + b"y"
    assert shown(player) == bytes(expected)


@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
def test_a_replica_refuses_at_the_end_and_lets_everything_be_rolled_back(
    world: World, player: Player, sync: bool
) -> None:
    world.gate.primary_until = 0.0
    with pytest.raises(NotPrimaryError):
        player.commit(player.change([2]), sync=sync)
    assert shown(player) == player.content
    assert player.served.journal.file is None
    assert world.database().txid == 1
    assert live_txids(world) == [1]


def test_a_transaction_without_net_change_ends_well_on_a_replica(world: World, player: Player) -> None:
    """A hot journal of an application that died before the demotion: else nobody could read any more."""
    after = player.change([2, 3], 7)
    player.begin(after, sync=True)
    player.write_pages(after, sync=False)
    world.gate.primary_until = 0.0
    player.roll_back()
    assert shown(player) == player.content
    assert world.database().txid == 1


def test_a_rollback_ends_well_where_the_file_has_more_pages_than_page_1_counts(world: World, player: Player) -> None:
    """SQLite leaves such where it takes space in chunks, and a copy of the file has them, too."""
    player.load(player.content + bytes(2 * PAGE_SIZE))
    after = player.change([2, 3], 6)
    player.begin(after, sync=True)
    player.write_pages(after, sync=False)
    world.gate.primary_until = 0.0
    player.roll_back()
    assert shown(player) == player.content
    assert world.database().txid == 2


def test_a_lease_that_runs_out_between_prepare_and_commit_refuses_the_commit_durably(
    world: World, player: Player
) -> None:
    after = player.change([2])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    assert live_txids(world) == [1, 2]
    world.gate.primary_until = 0.0
    calls = len(faulty(world).calls)
    with pytest.raises(NotPrimaryError):
        player.end(JournalEnd.DELETE)
    assert faulty(world).calls[calls:] == ["log.void", "log.void_sync"]
    assert live_txids(world) == [1]
    player.roll_back()
    assert shown(player) == player.content
    world.gate.primary_until = 2.0
    world.commit(player, [3])
    assert world.database().txid == 2


def test_an_aborted_transaction_is_voided_before_the_abort_is_answered(world: World, player: Player) -> None:
    after = player.change([2])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    player.roll_back()
    assert live_txids(world) == [1]


def test_what_cannot_be_voided_stops_the_process(world: World, player: Player) -> None:
    after = player.change([2])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    faulty(world).full = ("log.void",)
    with pytest.raises(DiskLostError):
        player.roll_back()


def test_a_failed_sync_refuses_the_commit_if_nothing_older_is_in_doubt(world: World, player: Player) -> None:
    faulty(world).fail_at = len(faulty(world).calls) + 2
    with pytest.raises(CommitRefusedError, match="log sync"):
        player.commit(player.change([2]))
    assert faulty(world).calls[faulty(world).fail_at - 1] == "log.sync"
    world.commit(player, [3])
    assert world.database().txid == 2


def test_a_failed_sync_stops_the_process_if_answered_commits_are_in_doubt(world: World, player: Player) -> None:
    world.commit(player, [2], sync=False)
    faulty(world).fail_at = len(faulty(world).calls) + 2
    with pytest.raises(DiskLostError):
        player.commit(player.change([3]))
    assert faulty(world).calls[faulty(world).fail_at - 1] == "log.sync"


def test_no_sync_is_believed_after_a_failed_one(world: World, player: Player) -> None:
    world.commit(player, [2], sync=False)
    faulty(world).fail_at = len(faulty(world).calls) + 1
    for _ in range(2):
        with pytest.raises(OSError, match=r"sync|injected"):
            run(world.database().sync_log())
    assert world.database().log.durable_txid == 1


def test_an_sqlite_that_keeps_no_page_count_grows_and_shrinks_a_database(world: World, player: Player) -> None:
    """Before 3.7.0: page 1 goes on stating the count of whoever wrote before, beside that one's change counter."""
    replica = ModelReplica(world.database())
    for page_n in (9, 3):
        after, before = player.change([2], page_n), player.pages[0]
        after[0] = after[0][:28] + before[28:32] + after[0][32:92] + before[92:96] + after[0][96:]
        player.begin(after, sync=True)
        player.write_pages(after, sync=True)
        player.served.truncate(page_n * PAGE_SIZE, by_sqlite=True)  # within the transaction, as it did then
        player.end(JournalEnd.DELETE)
        player.pages = after
        replica.catch_up()
        assert shown(player) == replica.content == player.content


def test_a_write_without_a_journal_is_refused(world: World, player: Player) -> None:
    with pytest.raises(UncapturedWriteError):
        player.served.write(0, bytes(PAGE_SIZE), by_sqlite=True)
    assert shown(player) == player.content


@pytest.mark.parametrize("page_size", [0, 1000, 131072])
def test_a_journal_that_tells_no_page_size_is_refused(world: World, page_size: int) -> None:
    player = world.player("new.db")
    player.served.journal.create()
    header = b"\1".ljust(JOURNAL_HEADER_SIZE - 4, b"\0") + page_size.to_bytes(4, "big")
    assert player.served.journal.write(0, header) is None
    with pytest.raises(UncapturedWriteError):
        player.served.write(0, bytes(PAGE_SIZE), by_sqlite=True)


def test_growth_over_pages_that_are_never_written_reads_as_zeros_everywhere(world: World, player: Player) -> None:
    replica = ModelReplica(world.database())
    for shrink in (4, 2):
        world.commit(player, [2], shrink, sync=False)
        after = [*player.change([2]), *([bytes(PAGE_SIZE)] * 4)]
        after.append(b"z" * PAGE_SIZE)
        after[0] = page_one(len(after), 50, wal=False)
        player.begin(after, sync=False)
        for pgno in (1, 2, len(after)):
            player.served.write((pgno - 1) * PAGE_SIZE, after[pgno - 1], by_sqlite=True)
        player.end(JournalEnd.DELETE)
        player.pages = after
        replica.catch_up()
        assert shown(player) == replica.content == player.content
    world.tidy()
    assert world.database().base.path.read_bytes() == player.content


def test_a_commit_stands_whose_pages_the_disk_does_not_give_back_at_once(world: World, player: Player) -> None:
    after = player.change(range(1, 81))
    player.begin(after, sync=True)
    for pgno in range(80, 0, -1):  # so that page 1 is among those that spill
        player.served.write((pgno - 1) * PAGE_SIZE, after[pgno - 1], by_sqlite=True)
    run(player.served.sync())
    faulty(world).fail_at = len(faulty(world).calls) + 1
    player.end(JournalEnd.DELETE)
    assert faulty(world).calls[faulty(world).fail_at - 1] == "overlay.read"
    assert shown(player) == b"".join(after)


def test_a_page_1_that_counts_more_pages_than_there_are_adds_none(world: World, player: Player) -> None:
    """Whoever writes nonsense there with `sqlite_dbpage` has a broken database, and a node that goes on."""
    replica = ModelReplica(world.database())
    after = player.change([2])
    after[0] = page_one(40, 50, wal=False)
    player.commit(after)
    replica.catch_up()
    assert shown(player) == replica.content == player.content == b"".join(after)
    assert world.database().page_n == 4


@pytest.mark.parametrize("cut", ["shrunk", "dropped"])
def test_growth_right_after_a_large_cut_does_not_bring_old_pages_back(world: World, cut: str) -> None:
    page_size = 65536
    player = Player(world.store, page_size=page_size)
    world.commit(player, range(1, 101), sync=False)
    world.tidy()
    if cut == "shrunk":
        world.commit(player, range(1, 71), 80, sync=False)
    else:
        world.drop(player)
        player.page_size = page_size
    after = [page_one(100, 50, wal=False, page_size=page_size), *player.pages[1:]]
    player.begin(after, sync=False)
    player.served.write(0, after[0], by_sqlite=True)
    player.served.write(99 * page_size, b"z" * page_size, by_sqlite=True)
    player.end(JournalEnd.DELETE)
    expected = b"".join(after).ljust(99 * page_size, b"\0") + b"z" * page_size
    assert shown(player) == expected
    world.tidy()
    assert world.database().base.path.read_bytes() == expected


def test_a_transaction_that_cuts_and_grows_again_leaves_zeros_between(world: World, player: Player) -> None:
    replica = ModelReplica(world.database())
    after = [*player.change([2], 2), bytes(PAGE_SIZE), bytes(PAGE_SIZE), b"z" * PAGE_SIZE]
    after[0] = page_one(5, 50, wal=False)
    player.begin(after, sync=False)
    player.served.truncate(2 * PAGE_SIZE, by_sqlite=True)
    for pgno in (1, 2, 5):
        player.served.write((pgno - 1) * PAGE_SIZE, after[pgno - 1], by_sqlite=True)
    player.end(JournalEnd.DELETE)
    replica.catch_up()
    assert shown(player) == replica.content == b"".join(after)
    world.tidy()
    assert world.database().base.path.read_bytes() == b"".join(after)


# ---- page size ----


@pytest.mark.parametrize("sync", [True, False], ids=["FULL", "OFF"])
@pytest.mark.parametrize(("page_size", "page_n"), [(512, 5), (512, 20), (2048, 3), (65536, 2)])
def test_a_page_size_change_is_a_new_state_with_an_empty_log(
    world: World, player: Player, page_size: int, page_n: int, sync: bool
) -> None:
    data = player.vacuum(page_size, page_n)
    player.commit_bytes(data, sync=sync)
    database = world.database()
    assert shown(player) == data
    assert (database.txid, database.base_txid, database.page_size) == (2, 2, page_size)
    assert database.log.first_txid() == 0
    world.commit(player, [2])
    assert database.txid == 3
    assert shown(player) == player.content


def test_a_page_size_change_that_is_rolled_back_is_forgotten_durably(world: World, player: Player) -> None:
    data = player.vacuum(2048, 3)
    after = [data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE)]
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    state = world.database().directory / "state.next"
    assert state.exists()
    player.roll_back()
    assert not state.exists()
    assert shown(player) == player.content
    assert world.database().txid == 1


def test_a_page_size_that_the_file_is_no_multiple_of_is_refused(world: World, player: Player) -> None:
    """Page 1 counts no pages, and the rest of the file is what another program left."""
    after = [page_one(0, 2, wal=False, page_size=2 * PAGE_SIZE)[:PAGE_SIZE], *player.pages[1:], b"x" * PAGE_SIZE]
    with pytest.raises(CommitRefusedError, match=f"pages of {PAGE_SIZE} become {2 * PAGE_SIZE}"):
        player.commit(after)
    assert shown(player) == player.content
    assert world.database().txid == 1


def test_a_replica_refuses_a_page_size_change(world: World, player: Player) -> None:
    world.gate.primary_until = 0.0
    with pytest.raises(NotPrimaryError):
        player.commit_bytes(player.vacuum(2048, 3))
    assert shown(player) == player.content


# ---- several databases ----


def test_the_unlink_of_the_super_journal_commits_all_or_none(world: World) -> None:
    players = [world.player(name) for name in ("a.db", "b.db", "c.db")]
    commit_together(players, [player.change([1, 2]) for player in players])
    assert [player.served.database.txid for player in players] == [1, 1, 1]
    assert players[0].served.database.group == players[2].served.database.group != 0
    world.gate.primary_until = 0.0
    with pytest.raises(NotPrimaryError):
        commit_together(players, [player.change([2]) for player in players])
    assert [shown(player) for player in players] == [player.content for player in players]


def test_a_lease_that_runs_out_at_the_decision_takes_all_of_it_back(world: World) -> None:
    players = [world.player(name) for name in ("a.db", "b.db")]
    faulty(world).before_call = lambda label: _close_gate_at(world, label, "log.sync", 2)
    with pytest.raises(NotPrimaryError):
        commit_together(players, [player.change([1, 2]) for player in players])
    faulty(world).before_call = lambda label: None
    assert [player.served.database.txid for player in players] == [0, 0]
    world.gate.primary_until = 2.0
    commit_together(players, [player.change([1, 2]) for player in players])
    assert [player.served.database.txid for player in players] == [1, 1]


def _close_gate_at(world: World, label: str, wanted: str, nth: int) -> None:
    if label == wanted and faulty(world).calls.count(wanted) == nth - 1:
        world.gate.primary_until = 0.0


def test_the_journals_that_follow_a_decided_super_journal_end_without_a_question(world: World) -> None:
    players = [world.player(name) for name in ("a.db", "b.db")]
    afters = [player.change([1, 2]) for player in players]

    def become_replica() -> None:
        world.gate.primary_until = 0.0

    run(commit_together_steps(players, afters, on_decided=become_replica))
    assert not world.gate.is_open
    assert [shown(player) for player in players] == [b"".join(after) for after in afters]


def test_a_second_image_beside_a_prepared_one_is_refused(world: World, player: Player) -> None:
    after = player.change([2])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    with pytest.raises(OSError, match="prepared"):
        run(world.database().clear())
    player.end(JournalEnd.DELETE)
    assert world.database().txid == 2


def test_a_journal_that_is_abandoned_commits_nothing(world: World, player: Player) -> None:
    """The database is replaced as a whole: what an application left half-way goes with the old state."""
    before = player.content
    after = player.change([2, 5], 5)
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    run(player.served.journal.abandon())
    assert shown(player) == before
    assert player.served.size == len(before)
    assert world.database().log.last_txid == world.database().txid == 1
    world.commit(player, [2])
    assert world.database().txid == 2
