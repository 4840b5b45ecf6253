"""Every disk call of these scenarios is the last before a power cut once, and fails once."""

import errno
from pathlib import Path

import pytest

from tests.support.storage_world import Scenario, World, crash_everywhere, fail_everywhere


def full_rollback_commits(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.commit(player, [2])
    world.commit(player, [3, 5])
    world.commit(player, [2], 3)
    world.tidy()
    world.commit(player, [2])


def unsynced_rollback_commits(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4), sync=False)
    world.commit(player, [2], sync=False)
    world.commit(player, [3, 5], sync=False)
    world.tidy()
    world.commit(player, [2], 3, sync=False)
    world.commit(player, [2], sync=True)
    world.commit(player, [2, 3], sync=False)


def large_commits(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 67))
    world.commit(player, range(1, 67), sync=False)
    world.tidy()
    world.commit(player, range(2, 68))


def wal_commits(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    world.enter_wal(player)
    world.wal_commit(player, [2], sync=True)
    world.wal_commit(player, [3, 6])
    world.wal_commit(player, [2, 4], 5)
    world.checkpoint_wal(player, 3)
    world.tidy()
    world.wal_commit(player, [3])
    world.checkpoint_wal(player)
    world.tidy()
    world.wal_commit(player, [2], sync=True)
    world.wal_commit(player, [2, 7])


def rolling_segments(world: World) -> None:
    player = world.player()
    for turn in range(8):
        world.commit(player, range(1, 8), sync=turn % 3 == 0)
        if turn % 4 == 3:
            world.tidy()


def rolling_segments_of_wal_commits(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 8))
    world.enter_wal(player)
    for turn in range(8):
        world.wal_commit(player, range(1, 8), sync=turn % 3 == 0)
        if turn % 4 == 3:
            world.checkpoint_wal(player)
            world.tidy()


def commits_over_several_databases(world: World) -> None:
    players = [world.player(name) for name in ("a.db", "b.db", "c.db")]
    world.commit_together(players, [1, 2])
    world.commit(players[1], [2, 3])
    world.commit_together(players[1:], [3])
    world.tidy()
    world.commit_together(players, [2, 4])
    world.commit(players[0], [2])
    world.tidy()


def abandoned_transactions(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.abandon(player, [2, 3])
    world.commit(player, [3], sync=False)
    world.abandon(player, [2, 4])
    world.commit(player, [2])


def loads(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.load(player, range(1, 6), 5)
    world.commit(player, [2, 3])
    world.load(player, range(1, 3), 2)
    world.tidy()
    world.commit(player, [2])


def page_size_changes(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 6))
    world.vacuum(player, 2048, 3)
    world.commit(player, [2])
    world.vacuum(player, 512, 7, sync=False)
    world.commit(player, [2])


def replacements(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.replace(player, range(1, 6), 5, txid=2)
    world.commit(player, [2, 3])
    world.gate.primary_until = 0.0
    world.replace(player, range(1, 3), 2, txid=40)
    world.replace(player, range(1, 3), 2, txid=7)
    world.gate.primary_until = float("inf")
    world.commit(player, [2])


def replacements_that_keep_the_old_state(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.replace(player, range(1, 6), 5, txid=2, keeps_diverged=True)
    world.commit(player, [2, 3])
    world.gate.primary_until = 0.0
    world.replace(player, range(1, 3), 2, txid=40, keeps_diverged=True)
    world.gate.primary_until = float("inf")
    world.commit(player, [2])


def drops(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 4))
    world.drop(player)
    world.tidy()
    world.commit(player, range(1, 3))
    world.drop(player)
    world.commit(player, range(1, 5))
    world.tidy()


SCENARIOS: list[Scenario] = [
    full_rollback_commits,
    unsynced_rollback_commits,
    large_commits,
    wal_commits,
    rolling_segments,
    rolling_segments_of_wal_commits,
    commits_over_several_databases,
    abandoned_transactions,
    loads,
    page_size_changes,
    replacements,
    replacements_that_keep_the_old_state,
    drops,
]
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


@each_scenario
def test_survives_a_power_cut_before_every_disk_call(tmp_path: Path, scenario: Scenario) -> None:
    assert crash_everywhere(tmp_path, scenario) > 30


@each_scenario
def test_survives_the_failure_of_every_disk_call(tmp_path: Path, scenario: Scenario) -> None:
    assert fail_everywhere(tmp_path, scenario, errno.EIO) > 10
