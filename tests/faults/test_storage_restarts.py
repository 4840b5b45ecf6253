"""Power cuts in the middle of a recovery, and again in the life after it: no matter how often, nothing is lost."""

import copy
from pathlib import Path

import pytest

from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import Promises, World, examine


def first_life(world: World) -> None:
    """Leaves all kinds of things for a recovery: groups, unsynced images, checkpointed and not, several segments."""
    players = [world.player(name) for name in ("a.db", "b.db")]
    for player in players:
        world.commit(player, range(1, 8))
    world.tidy()
    world.commit_together(players, [1, 2])
    world.commit(players[0], [3], sync=False)
    world.commit(players[1], [4], sync=False)
    world.commit(players[0], [2, 3], sync=False)
    world.commit(players[1], range(1, 12), sync=False)
    world.commit(players[0], [5, 3], sync=False)


def settle_promises(world: World, promises: Promises) -> None:
    """What the restart found is what happened: the unsynced commits behind it are gone for good."""
    for name, promise in promises.by_name.items():
        found = world.database(name).txid
        promise.states = {found: promise.states[found]}
        promise.last = promise.durable = found
    promises.groups.clear()


@pytest.mark.parametrize("seed", [NOTHING_UNSYNCED, EVERYTHING, *range(2, 10)])
def test_survives_a_power_cut_before_every_disk_call_of_a_restart_and_of_the_life_after_it(
    tmp_path: Path, seed: int
) -> None:
    root = tmp_path / "first"
    root.mkdir()
    disk = FaultyDisk(root)
    world = World(root, disk)
    first_life(world)
    promises = world.promises
    second = tmp_path / "second"
    disk.leave(seed, second)
    world.close()

    disk = FaultyDisk(second)
    crash_n = 0

    def crash(label: str) -> None:
        nonlocal crash_n
        crash_n += 1
        for again in (NOTHING_UNSYNCED, seed * 1000 + crash_n + 2):
            left = tmp_path / f"left{crash_n}-{again}"
            disk.leave(again, left)
            try:
                examine(left, copy.deepcopy(promises), go_on=crash_n % 5 == 0)
            except Exception as error:
                raise AssertionError(f"power cut before {label}, call {len(disk.calls)}, seed {again}") from error

    disk.before_call = crash
    world = World(second, disk, promises)
    settle_promises(world, promises)
    # The same sizes as the images that were lost: where a new image ends an old one may begin.
    player = Player(world.store, "a.db", seed=9, create=False)
    for pgnos in ([3], [2, 3], [5, 3]):
        world.commit(player, pgnos, sync=False)
    world.tidy()
    crash("the end")
    disk.before_call = lambda label: None
    world.close()
    assert crash_n > 15
