"""The databases of a data directory over restarts: which show, where they are, and who owns the directory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litefs.errors import (
    CommitRefusedError,
    CorruptStateError,
    DataDirLockedError,
    NotPrimaryError,
    UncapturedWriteError,
)
from litefs.storage import replacement
from litefs.storage.data_dir import DataDir
from litefs.storage.incoming import IncomingDatabase
from litefs.storage.raw_load import RawLoad
from litefs.storage.state import NEXT_STATE_NAME, DatabaseState
from litefs.storage.steps import Steps, run
from tests.support.faulty_disk import FaultyDisk, QuickDisk
from tests.support.sqlite_player import PAGE_SIZE, Player
from tests.support.storage_world import World

Restart = Callable[[World], World]


@pytest.fixture
def restart() -> Iterator[Restart]:
    """Closes a store as a killed process does, and opens the directory anew."""
    opened: list[World] = []

    def close_and_open(world: World) -> World:
        world.close()
        opened.append(World(world.root, QuickDisk()))
        return opened[-1]

    yield close_and_open
    if opened:
        opened[-1].close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Closed by `restart`, or by nobody: closing twice is fine."""
    root = tmp_path / "data"
    root.mkdir()
    return World(root, FaultyDisk(root))


def shown(world: World, name: str = "a.db") -> bytes:
    served = world.store.databases[name]
    return served.read(0, served.size)


# ---- which names show ----


def test_an_empty_database_survives_a_restart(world: World, restart: Restart) -> None:
    world.store.create("a.db")
    world = restart(restart(world))
    assert world.store.names() == ["a.db"]
    assert shown(world) == b""
    world.commit(world.player(), range(1, 3))
    assert restart(world).store.names() == ["a.db"]


def test_an_empty_database_that_was_unlinked_does_not_come_back(world: World, restart: Restart) -> None:
    world.store.create("a.db")
    run(world.store.drop("a.db"))
    assert world.store.names() == []
    world = restart(world)
    assert world.store.names() == []
    assert not (world.root / "dbs/a.db").exists()


def test_an_unlinked_name_keeps_what_is_being_written_for_it(world: World) -> None:
    world.store.create("a.db")
    incoming = IncomingDatabase(world.store.directory("a.db"), PAGE_SIZE, 1, world.disk)
    run(world.store.drop("a.db"))
    incoming.write_pages(1, bytes(PAGE_SIZE))
    incoming.finish()
    assert (world.store.directory("a.db") / incoming.name).exists()
    world.close()


def test_a_database_known_by_its_journal_only_does_not_show(world: World, restart: Restart) -> None:
    world.store.create("a.db", shows=False)
    assert world.store.names() == []
    assert world.store.database("a.db") is None
    assert restart(world).store.names() == []


def test_a_dropped_database_keeps_its_position_over_restarts(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    run(world.store.drop("a.db"))
    for _ in range(2):
        world = restart(world)
        assert world.store.names() == []
        assert world.database().txid == 2
        world.tidy()
    player = world.player()
    world.commit(player, range(1, 3))
    assert world.database().txid == 3
    world = restart(world)
    assert world.store.names() == ["a.db"]
    assert shown(world) == player.content


def test_a_dropped_database_that_was_made_again_shows_empty_after_a_restart(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    run(world.store.drop("a.db"))
    world.store.create("a.db")
    world = restart(world)
    assert world.store.names() == ["a.db"]
    assert world.database().txid == 2
    run(world.store.drop("a.db"))
    assert restart(world).store.names() == []


def test_a_drop_frees_what_an_unfinished_transaction_spilled(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    before = len(os.listdir("/proc/self/fd"))
    after = player.change(range(1, 90))
    player.begin(after, sync=False)
    player.write_pages(after, sync=False)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    world.drop(player)
    assert len(os.listdir("/proc/self/fd")) == before
    restart(world)


def test_a_replica_may_not_drop(world: World) -> None:
    world.commit(world.player(), range(1, 5))
    world.gate.primary_until = 0.0
    with pytest.raises(NotPrimaryError):
        run(world.store.drop("a.db"))
    assert world.store.names() == ["a.db"]
    world.close()


# ---- loads ----


def test_a_file_copied_over_a_database_is_its_next_state(world: World, restart: Restart) -> None:
    player, other = world.player(), world.player("other.db")
    world.commit(player, range(1, 9))
    world.commit(other, range(1, 4))
    player.load(other.content)
    world.commit(player, [2])
    assert world.database().txid == 3
    assert shown(restart(world)) == player.content


def test_a_file_keeps_the_pages_behind_those_that_its_header_counts(world: World, restart: Restart) -> None:
    """As in a file that SQLite allocated in chunks; the next transaction cuts them off."""
    player = world.player()
    world.commit(player, range(1, 4))
    longer = player.content + bytes(2 * PAGE_SIZE)
    player.load(longer)
    assert world.database().page_n == 5
    world = restart(world)
    assert shown(world) == longer
    served = world.store.databases["a.db"]
    served.truncate(0, by_sqlite=False)
    served.write(0, player.content[: 2 * PAGE_SIZE], by_sqlite=False)
    run(served.sync())
    assert served.load is not None, "the header counts three pages"


def test_what_is_no_database_stays_a_load_and_is_gone_after_a_restart(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    committed = player.content
    player.load(b"no database" * 100)
    assert shown(world) == b"no database" * 100
    assert world.database().txid == 1
    assert shown(restart(world)) == committed


def test_a_new_file_may_get_its_size_before_its_content(world: World, restart: Restart) -> None:
    """As programs do that want to know first whether there is room."""
    player = world.player()
    pages = player.change(range(1, 4), 3)
    content = b"".join(pages)
    player.served.truncate(len(content), by_sqlite=False)
    assert shown(world) == bytes(len(content))
    player.served.write(0, content, by_sqlite=False)
    run(player.served.sync())
    assert world.database().txid == 1
    assert shown(restart(world)) == content


def test_a_load_leaves_nothing_behind_whether_it_is_committed_refused_or_dropped(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    player.load(b"".join(player.change([2], 2)))
    assert incoming_files(world) == []
    world.gate.primary_until = 0.0
    served = player.served
    served.load = RawLoad(served.database)
    served.load.write(0, player.content)
    with pytest.raises(NotPrimaryError):
        run(served.sync())
    assert len(incoming_files(world)) == 1
    assert served.load is not None
    served.load.discard()
    assert incoming_files(world) == []


def incoming_files(world: World) -> list[Path]:
    return list(world.database().directory.glob("incoming-*"))


def test_a_load_and_a_new_state_from_elsewhere_do_not_meet(world: World, restart: Restart) -> None:
    """A copy under way while an import arrives: each has a file of its own, and the one that is prepared counts."""
    player = world.player()
    world.commit(player, range(1, 4))
    served = player.served
    served.truncate(0, by_sqlite=False)
    served.write(0, player.content[:PAGE_SIZE], by_sqlite=False)
    imported = prepare(world, player, txid=2)
    served.write(PAGE_SIZE, player.content[PAGE_SIZE:], by_sqlite=False)
    assert len(incoming_files(world)) == 3  # and the checksums of the import
    assert shown(restart(world)) == imported


def test_a_write_by_another_program_begins_with_a_copy_of_the_database(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 70), sync=False)
    content = bytearray(player.content)
    assert world.database().base.layers, "the pages are not in the base yet"
    content[5000:5003] = b"new"
    steps = player.served.write(5000, b"new", by_sqlite=False)
    assert steps is not None
    run(steps)
    assert shown(world) == bytes(content)
    run(player.served.sync())
    assert world.database().txid == 2
    assert shown(restart(world)) == bytes(content)


def test_a_copy_of_a_database_that_is_committed_to_meanwhile_is_given_up(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    steps = player.served.write(5000, b"new", by_sqlite=False)
    assert steps is not None

    def with_a_commit() -> Steps[None]:
        yield next(steps)
        world.commit(player, [2])
        yield from steps

    with pytest.raises(CommitRefusedError, match="committed to"):
        run(with_a_commit())
    assert shown(world) == player.content
    assert incoming_files(world) == []


def test_a_load_is_not_written_to_while_it_is_committed(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    data = player.content
    served = player.served
    served.truncate(0, by_sqlite=False)
    served.write(0, data, by_sqlite=False)
    steps = served.sync()
    step = next(steps)
    with pytest.raises(CommitRefusedError, match="while it is committed"):
        served.write(0, b"x", by_sqlite=False)
    try:
        while True:
            step = steps.send(step() if step is not None else None)
    except StopIteration:
        assert served.load is None
    assert shown(restart(world)) == data


def test_a_load_that_is_refused_is_tried_again_when_it_is_closed(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    served = player.served
    served.truncate(0, by_sqlite=False)
    served.write(0, player.content, by_sqlite=False)
    world.gate.primary_until = 0.0
    with pytest.raises(NotPrimaryError):
        run(served.sync())
    world.gate.primary_until = 2.0
    run(served.finish_load())
    assert world.database().txid == 2
    world.close()


def test_a_lease_that_runs_out_while_a_load_is_prepared_refuses_it_durably(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    committed = player.content
    served = player.served
    served.truncate(0, by_sqlite=False)
    served.write(0, b"".join(player.change([2], 2)), by_sqlite=False)
    steps = served.sync()
    step = next(steps)
    assert step is not None
    step = steps.send(step())
    assert step is not None
    result = step()
    assert (world.database().directory / NEXT_STATE_NAME).exists()
    world.gate.primary_until = 0.0
    cancel = steps.send(result)
    assert cancel is not None
    cancel()
    assert not (world.database().directory / NEXT_STATE_NAME).exists()
    with pytest.raises(NotPrimaryError):
        steps.send(None)
    assert shown(restart(world)) == committed


def test_resizing_outside_a_transaction_is_refused(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    with pytest.raises(UncapturedWriteError):
        player.served.truncate(PAGE_SIZE, by_sqlite=True)
    assert player.served.size == 4 * PAGE_SIZE
    world.close()


# ---- replacements ----


def prepare(world: World, player: Player, *, txid: int, after_txid: int | None = None) -> bytes:
    """Brings a state of two pages, prepared and not flipped."""
    data = b"".join(player.change([2], 2))
    directory = world.store.directory("a.db")
    incoming = IncomingDatabase(directory, PAGE_SIZE, 2, world.disk)
    incoming.write_pages(1, data)
    state = DatabaseState(
        base_txid=txid,
        checksum=incoming.finish(),
        page_size=PAGE_SIZE,
        page_n=2,
        after_txid=world.database().log.last_txid if after_txid is None else after_txid,
        incoming=incoming.name,
    )
    replacement.prepare_replacement(world.disk, directory, state)
    return data


def test_a_prepared_replacement_is_finished_by_the_next_start(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    data = prepare(world, player, txid=9)
    world = restart(world)
    assert shown(world) == data
    assert world.database().txid == 9


def test_commits_after_a_prepared_replacement_make_the_next_start_cancel_it(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    prepare(world, player, txid=2)
    world.commit(player, [3])
    world = restart(restart(world))
    assert shown(world) == player.content
    assert world.database().txid == 2


def test_a_load_that_came_before_a_replacement_was_prepared_makes_the_next_start_cancel_it(
    world: World, restart: Restart
) -> None:
    """The import asked for the position, and its preparation had to wait for the flip of the load."""
    player = world.player()
    world.commit(player, range(1, 5))
    world.load(player, range(1, 4), 3)
    prepare(world, player, txid=2, after_txid=1)
    world = restart(world)
    assert shown(world) == player.content
    assert world.database().txid == 2


def test_a_flip_after_a_commit_of_the_primary_is_refused(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    prepare(world, player, txid=2)
    world.commit(player, [3])
    with pytest.raises(CommitRefusedError, match="committed to"):
        run(world.store.flip_replacement("a.db"))
    assert shown(world) == player.content
    with pytest.raises(CorruptStateError, match="no replacement"):
        run(world.store.flip_replacement("a.db"))
    world.commit(player, [2])
    assert world.database().txid == 3
    world.close()


def test_of_two_replacements_the_one_prepared_last_is_carried_out(world: World, restart: Restart) -> None:
    """A load is about to be flipped in when an import is prepared: the load is refused, and not taken for it."""
    player = world.player()
    world.commit(player, range(1, 4))
    loaded = b"".join(player.change([2], 2))
    served = player.served
    served.truncate(0, by_sqlite=False)
    served.write(0, loaded, by_sqlite=False)
    steps = served.sync()
    imported: list[bytes] = []

    def with_an_import() -> Steps[None]:
        result = None
        while not (world.database().directory / NEXT_STATE_NAME).exists():
            result = yield steps.send(result)
        imported.append(prepare(world, player, txid=2))
        step = steps.send(result)
        while True:
            step = steps.send((yield step))

    with pytest.raises(CommitRefusedError, match="not prepared any more"):
        run(with_an_import())
    assert not world.database().log.is_held
    run(world.store.flip_replacement("a.db"))
    assert [shown(world)] == imported
    assert [shown(restart(world))] == imported


def test_a_load_takes_the_place_of_an_import_that_was_prepared_and_never_came(world: World, restart: Restart) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    prepare(world, player, txid=2)
    data = b"".join(player.change([2], 2))
    player.load(data)
    assert shown(world) == data
    assert incoming_files(world) == []
    with pytest.raises(CorruptStateError, match="no replacement"):
        run(world.store.flip_replacement("a.db"))
    assert shown(restart(world)) == data


def test_what_was_served_before_a_flip_is_dead(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    world.gate.primary_until = 0.0
    data = prepare(world, player, txid=9)
    old = player.served
    new = run(world.store.flip_replacement("a.db"))
    assert old.dead
    assert not new.dead
    with pytest.raises(OSError, match="descriptor"):
        old.read(0, PAGE_SIZE)
    assert shown(world) == data
    world.close()


# ---- the data directory ----


def test_a_data_directory_has_one_owner(world: World) -> None:
    with pytest.raises(DataDirLockedError):
        DataDir(world.root, QuickDisk())
    world.close()
    DataDir(world.root, QuickDisk()).close()


def test_a_node_keeps_its_id_and_counts_its_starts(tmp_path: Path) -> None:
    found = []
    for _ in range(3):
        data_dir = DataDir(tmp_path / "data", QuickDisk())
        found.append((data_dir.node_id, data_dir.start))
        data_dir.close()
    assert [start for _, start in found] == [1, 2, 3]
    assert len({node_id for node_id, _ in found}) == 1
    assert int((tmp_path / "data/id").read_text(), 16) == found[0][0] != 0


@pytest.mark.parametrize("call", range(1, 25))
def test_no_start_is_counted_twice_whatever_fails(tmp_path: Path, call: int) -> None:
    root = tmp_path / "data"
    root.mkdir()
    DataDir(root, QuickDisk()).close()
    disk = FaultyDisk(root)
    disk.fail_at = call
    try:
        data_dir = DataDir(root, disk)
    except OSError:
        start = 1
    else:
        start = data_dir.start
        data_dir.close()
    for seed in (0, 1, call + 2):
        disk.leave(seed, tmp_path / f"left{seed}")
        data_dir = DataDir(tmp_path / f"left{seed}", QuickDisk())
        assert data_dir.start > start
        data_dir.close()
