"""What only this node had is kept when the primary's state takes its place."""

import shutil
from pathlib import Path

from litefs.storage.followed import append_image
from litefs.storage.set_aside import SET_ASIDE_MAX, SET_ASIDE_NAME
from tests.support.faulty_disk import QuickDisk
from tests.support.sqlite_player import Player
from tests.support.storage_world import World
from tests.unit.storage.test_branches import branch


def follow(world: World, player: Player, txid: int) -> None:
    """The node ceases to be primary, takes another one's state, and becomes primary again."""
    world.gate.primary_until = 0.0
    world.replace(player, range(1, 3), 2, txid=txid, keeps_diverged=True)
    world.gate.primary_until = float("inf")


def kept(world: World) -> list[Path]:
    return sorted((world.root / SET_ASIDE_NAME).glob("*"))


def content(root: Path, source: Path) -> bytes:
    """Returns the database that a new node finds in a directory that was kept."""
    shutil.copytree(source, root / "dbs" / "a.db")
    world = World(root, QuickDisk())
    database = world.database()
    data = b"".join(database.base.page(pgno) for pgno in range(1, database.page_n + 1))
    world.close()
    return data


def test_what_this_node_committed_is_kept_as_a_whole_database(tmp_path: Path) -> None:
    world = World(tmp_path / "node", QuickDisk())
    player = Player(world.store)
    world.commit(player, range(1, 5))
    world.commit(player, [2, 3])
    before = b"".join(player.pages)
    follow(world, player, 9)
    (place,) = kept(world)
    assert place.name == "a.db-1"
    assert content(tmp_path / "rescue", place) == before
    world.commit(player, [1])
    assert world.database().txid == 10
    world.close()


def test_a_state_of_as_many_transactions_is_kept_whoever_made_them(tmp_path: Path) -> None:
    world = World(tmp_path / "node", QuickDisk(), primary=False)
    world.store.create("a.db")
    for image in branch(tmp_path / "theirs", 2):
        append_image(world.database(), image)
    player = Player(world.store)
    world.replace(player, range(1, 3), 2, txid=2, keeps_diverged=True)
    assert len(kept(world)) == 1
    world.close()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    world = World(tmp_path / "node", QuickDisk())
    player = Player(world.store)
    for number in range(SET_ASIDE_MAX + 2):
        world.commit(player, range(1, 4))
        follow(world, player, 10 * number + 9)
    assert [place.name for place in kept(world)] == [f"a.db-{number}" for number in range(3, SET_ASIDE_MAX + 3)]
    world.close()


def test_an_import_keeps_nothing(tmp_path: Path) -> None:
    world = World(tmp_path / "node", QuickDisk())
    player = Player(world.store)
    world.commit(player, range(1, 5))
    world.replace(player, range(1, 3), 2, txid=2)
    assert kept(world) == []
    world.close()
