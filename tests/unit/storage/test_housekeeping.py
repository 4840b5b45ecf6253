"""What happens behind the commits: S advances under any load, and what is forgotten is not needed."""

import pytest

from litefs.storage import housekeeping
from litefs.storage.base_file import Layer
from litefs.storage.database import Database
from litefs.storage.housekeeping import Housekeeper
from litefs.storage.state import read_state
from litefs.storage.steps import Steps, pause, run
from tests.support.faulty_disk import FaultyDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import NEVER, World


@pytest.fixture
def player(world: World) -> Player:
    player = world.player()
    world.commit(player, range(1, 5))
    return player


def drive_with(steps: Steps[None], between: list[int], world: World, player: Player) -> None:
    """Drives steps, and before each wait for the disk ends commits once more without sync."""
    try:
        step = next(steps)
        while True:
            result = step() if step is not None else None
            world.commit(player, between, sync=False)
            step = steps.send(result)
    except StopIteration:
        return


def test_layers_are_written_under_steady_commits_without_sync(world: World, player: Player) -> None:
    database = world.database()
    for _ in range(5):
        world.commit(player, [2, 3], sync=False)
        before = database.txid
        drive_with(world.housekeeper.settle(database), [2, 3], world, player)
        assert database.base.written_txid >= before
    assert len(database.base.layers) <= 2
    assert player.served.read(0, 1 << 20) == player.content


def test_s_advances_under_steady_wal_commits(world: World, player: Player) -> None:
    """Pages newer than the last checkpoint are always in the WAL; S moves to where the checkpoint caught up."""
    world.enter_wal(player)
    database = world.database()
    for _ in range(3):
        world.wal_commit(player, [2, 3], sync=True)
        world.checkpoint_wal(player)
        caught_up = database.txid
        world.wal_commit(player, [3], sync=True)
        world.tidy()
        assert database.stale
        assert database.base_txid == caught_up
        state = read_state(database.directory)
        assert state is not None
        assert state.base_txid == caught_up


def test_s_does_not_move_while_a_checkpoint_lags_behind(world: World, player: Player) -> None:
    world.enter_wal(player)
    world.tidy()
    for _ in range(3):
        world.wal_commit(player, [2, 3], sync=True)
    world.checkpoint_wal(player, 4)
    world.tidy()
    assert world.database().base_txid == 2


def test_s_moves_only_after_the_base_is_synced(world: World, player: Player) -> None:
    world.commit(player, [2])
    assert isinstance(world.disk, FaultyDisk)
    calls = len(world.disk.calls)
    world.tidy()
    labels = world.disk.calls[calls:]
    assert labels.index("base.sync") < labels.index("state.open")


def test_s_never_moves_again_after_a_failed_sync_of_the_base(world: World, player: Player) -> None:
    assert isinstance(world.disk, FaultyDisk)
    database = world.database()
    world.disk.fail_at = len(world.disk.calls) + 1
    with pytest.raises(OSError, match=r"base\.sync"):
        run(world.housekeeper.checkpoint(database, NEVER))
    for _ in range(2):
        world.commit(player, [2])
        world.tidy()
    assert database.base_txid == 0
    assert database.log.first_txid() == 1


def test_a_checkpoint_that_was_overtaken_does_not_take_s_back(world: World, player: Player) -> None:
    """One comes behind commits, one with the retention; the log up to the newer S may be gone when the older ends."""
    database = world.database()
    run(world.housekeeper.settle(database))
    assert not world.housekeeper.checkpoint_due(database, world.now_s)
    overtaken = world.housekeeper.checkpoint(database, world.now_s)
    sync_base = next(overtaken)
    world.commit(player, [2])
    world.tidy()
    assert database.base_txid == 2
    assert sync_base is not None
    sync_base()
    with pytest.raises(StopIteration):
        overtaken.send(None)
    state = read_state(database.directory)
    assert state is not None
    assert state.base_txid == 2


def test_a_checkpoint_is_due_by_age_or_by_size(world: World, player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    database, keeper = world.database(), world.housekeeper
    assert not keeper.checkpoint_due(database, 100.0)
    assert not keeper.checkpoint_due(database, 100.0 + housekeeping.CHECKPOINT_AGE_S - 1)
    assert keeper.checkpoint_due(database, 100.0 + housekeeping.CHECKPOINT_AGE_S)
    monkeypatch.setattr(housekeeping, "CHECKPOINT_LOG_BYTES", 3000)
    assert not keeper.checkpoint_due(database, 100.0)
    world.commit(player, [2, 3])
    assert keeper.checkpoint_due(database, 100.0)
    run(keeper.checkpoint(database, 100.0))
    assert not keeper.checkpoint_due(database, NEVER)


def test_retention_never_removes_an_image_after_s(world: World, player: Player) -> None:
    database = world.database()
    for _ in range(12):
        world.commit(player, range(1, 9))
    run(world.housekeeper.forget(database, NEVER))
    assert database.log.first_txid() == 1
    world.tidy()
    assert 1 < database.log.first_txid() <= database.base_txid


def segments_of(world: World, player: Player) -> list[int]:
    """Fills the log with several segments that retention would remove. Returns the first transactions of each."""
    database = world.database()
    for _ in range(60):
        world.commit(player, range(1, 30))
    run(world.housekeeper.settle(database))
    run(world.housekeeper.checkpoint(database, NEVER))
    firsts = sorted(int(path.stem, 16) for path in database.log.directory.glob("*.ltxlog"))
    assert len(firsts) > 4
    return firsts


def test_retention_keeps_what_a_replica_still_needs(world: World, player: Player) -> None:
    firsts = segments_of(world, player)
    database, keeper = world.database(), Housekeeper(0.0, 1 << 30)
    run(keeper.forget(database, NEVER, [firsts[1] - 1]))
    assert database.log.first_txid() == firsts[1], "it is behind the first segment"
    run(keeper.forget(database, NEVER, [firsts[2] - 1, firsts[3] - 1]))
    assert database.log.first_txid() == firsts[2], "the furthest behind counts"
    run(keeper.forget(database, NEVER, [1, firsts[3] - 1]))
    assert database.log.first_txid() == firsts[3], "one that needs a snapshot anyway keeps nothing"
    run(keeper.forget(database, NEVER))
    assert database.log.first_txid() == firsts[-1]


def test_replicas_keep_the_log_up_to_a_size(world: World, player: Player) -> None:
    firsts = segments_of(world, player)
    database = world.database()
    size = database.log.size_bytes
    run(Housekeeper(0.0, size - 1).forget(database, NEVER, [1]))
    assert database.log.first_txid() == firsts[1]
    run(Housekeeper(0.0, 0).forget(database, NEVER, [firsts[1]]))
    assert database.log.first_txid() == firsts[-1]


def test_replicas_keep_no_more_log_than_is_free(world: World, player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    firsts = segments_of(world, player)
    database = world.database()
    monkeypatch.setattr(database.disk, "free_bytes", lambda label, path: database.log.size_bytes - 1)
    run(Housekeeper(0.0, 1 << 30).forget(database, NEVER, [1]))
    assert database.log.first_txid() == firsts[1]


def test_retention_keeps_what_is_younger(world: World, player: Player) -> None:
    for _ in range(12):
        world.commit(player, range(1, 9))
    run(world.housekeeper.settle(world.database()))
    assert world.housekeeper.checkpoint_due(world.database(), 0.0) is False
    run(world.housekeeper.checkpoint(world.database(), 0.0))
    run(world.housekeeper.forget(world.database(), 0.0))
    assert world.database().log.first_txid() == 1


def test_a_failed_write_of_the_base_is_tried_again(world: World, player: Player) -> None:
    world.commit(player, [2, 3], sync=False)
    assert isinstance(world.disk, FaultyDisk)
    world.disk.full = ("base.*",)
    run(world.housekeeper.settle(world.database()))
    layers: list[Layer] = world.database().base.layers
    assert len(layers) == 1
    world.disk.full = ()
    run(world.housekeeper.settle(world.database()))
    assert not world.database().base.layers
    assert world.database().base.path.read_bytes() == player.content


def test_who_settles_a_database_waits_for_whoever_does_it_already(world: World, player: Player) -> None:
    """A load that begins while the housekeeper writes a layer: the process died of it."""
    world.commit(player, [2, 3], sync=False)
    first, second = world.database().settle(), world.database().settle()
    step = next(first)
    try:
        while True:
            assert next(second) is pause
            step = first.send(step() if step is not None else None)
    except StopIteration:
        run(second)
    assert not world.database().base.layers
    assert world.database().base.path.read_bytes() == player.content


def test_a_database_that_was_replaced_meanwhile_is_left_alone(world: World, player: Player) -> None:
    """The housekeeper has it on its list still. Its files are closed, and its paths are those of the new one."""
    world.commit(player, [2, 3], sync=False)
    old = world.database()
    checkpoint = world.housekeeper.checkpoint(old, NEVER)
    step = next(checkpoint)
    assert step is not None
    world.replace(player, range(1, 6), 5, txid=old.txid + 1)
    assert world.database() is not old
    with pytest.raises(StopIteration):
        checkpoint.send(step())
    run(world.housekeeper.settle(old))
    assert not world.housekeeper.checkpoint_due(old, NEVER)
    state = read_state(old.directory)
    assert state is not None
    assert (state.base_txid, state.page_n) == (world.database().txid, 5)


def test_a_replacement_during_a_checkpoint_keeps_its_own_state_file(world: World, player: Player) -> None:
    world.commit(player, [2])
    database: Database = world.database()
    assert not world.housekeeper.checkpoint_due(database, 0.0)
    steps = world.housekeeper.checkpoint(database, NEVER)
    step = next(steps)
    assert step is not None
    result = step()
    world.load(player, range(1, 4), 3)
    with pytest.raises(StopIteration):
        steps.send(result)
    state = read_state(database.directory)
    assert state is not None
    assert state.base_txid == database.txid == 3
