"""A replica's side: images into the log, then their pages through the mount."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from litefs.errors import CommitRefusedError, NotPrimaryError, PositionMismatchError
from litefs.formats.ltx import FLAG_LZ4, LtxHeader
from litefs.formats.ltx_encoder import encode_image
from litefs.formats.position import Checksum, Txid
from litefs.storage.expected import AT_ONCE_MAX
from litefs.storage.followed import append_image, append_spooled
from litefs.storage.log_reader import LogReader
from litefs.storage.steps import run
from tests.support.faulty_disk import EVERYTHING, NOTHING_UNSYNCED, FaultyDisk
from tests.support.memory import memory_growth_of
from tests.support.sqlite_player import PAGE_SIZE, Player
from tests.support.storage_world import World, examine


@pytest.fixture
def images(world: World) -> list[bytes]:
    """Images 1 to 4 of a primary's database, the second a large one, the third a shrinking one."""
    player = world.player()
    for pgnos, page_n in ((range(1, 5), None), (range(2, 100), None), ([2], 50), ([3], None)):
        world.commit(player, pgnos, page_n)
    reader = LogReader(world.database().log.directory)
    found = [reader.read(ref, 0, ref.size) for ref in reader.images(1, 4)]
    reader.close()
    return found


@pytest.fixture
def primary(world: World, images: list[bytes]) -> World:
    """The world that the images are of."""
    return world


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "replica"
    root.mkdir()
    world = World(root, FaultyDisk(root), primary=False)
    world.store.create("a.db")
    yield world
    world.close()


def states_of(primary: World) -> dict[int, bytes]:
    return primary.promises.of("a.db").states


def apply(replica: World, content: bytes) -> None:
    """What the applier does for one image: a transaction in rollback mode, without syncs."""
    player = Player(replica.store, "a.db", create=False)
    after = [content[at : at + PAGE_SIZE] for at in range(0, len(content), PAGE_SIZE)]
    player.commit(after, sync=False)


def examine_after_power_cuts(primary: World, replica: World, txid: int, tmp_path: Path) -> None:
    """Checks that the replica starts at `txid` with the primary's pages, whatever was not synced is lost."""
    promise = replica.promises.of("a.db")
    promise.states = {txid: states_of(primary)[txid]}
    promise.durable = promise.last = txid
    assert isinstance(replica.disk, FaultyDisk)
    for seed in (NOTHING_UNSYNCED, EVERYTHING, 5):
        replica.disk.leave(seed, tmp_path / f"left{seed}")
        examine(tmp_path / f"left{seed}", replica.promises)


def test_the_position_moves_when_the_pages_are_there(primary: World, replica: World, images: list[bytes]) -> None:
    database = replica.database()
    for txid, image in enumerate(images, 1):
        assert append_image(database, image) == txid
        assert (database.txid, database.logged_txid) == (txid - 1, txid)
        apply(replica, states_of(primary)[txid])
        assert (database.txid, database.logged_txid) == (txid, txid)
    assert database.checksum == primary.database().checksum
    assert replica.store.databases["a.db"].read(0, 1 << 20) == states_of(primary)[4]
    reader = LogReader(database.log.directory)
    assert [reader.read(ref, 0, ref.size) for ref in reader.images(1, 4)] == images
    reader.close()


def test_a_replica_does_not_wait_for_its_disk_where_every_commit_is_synced(
    primary: World, images: list[bytes], tmp_path: Path
) -> None:
    root = tmp_path / "replica"
    root.mkdir()
    disk = FaultyDisk(root)
    replica = World(root, disk, primary=False, sync_every_commit=True)
    replica.store.create("a.db")
    for txid, image in enumerate(images, 1):
        append_image(replica.database(), image)
        apply(replica, states_of(primary)[txid])
    assert replica.database().txid == 4
    assert "log.sync" not in disk.calls
    replica.close()


def test_images_may_wait_in_the_log_and_a_restart_applies_them(
    primary: World, replica: World, images: list[bytes], tmp_path: Path
) -> None:
    database = replica.database()
    for image in images[:3]:
        append_image(database, image)
    assert (database.txid, database.logged_txid) == (0, 3)
    apply(replica, states_of(primary)[1])
    run(database.sync_log())
    examine_after_power_cuts(primary, replica, 3, tmp_path)


def test_a_spooled_image_is_taken_as_it_is(primary: World, replica: World, images: list[bytes]) -> None:
    database = replica.database()
    for txid, image in enumerate(images, 1):
        (replica.root / "spool/image").write_bytes(image)
        assert run(append_spooled(database, replica.root / "spool/image")) == txid
        apply(replica, states_of(primary)[txid])
    assert database.txid == 4
    reader = LogReader(database.log.directory)
    assert [reader.read(ref, 0, ref.size) for ref in reader.images(1, 4)] == images
    reader.close()


def test_the_pages_of_several_images_may_come_as_one_step(
    primary: World, replica: World, images: list[bytes], tmp_path: Path
) -> None:
    database = replica.database()
    for image in images:
        append_image(database, image)
    apply(replica, states_of(primary)[3])
    assert (database.txid, database.logged_txid) == (3, 4)
    assert [image.txid for image in database.expected] == [4]
    apply(replica, states_of(primary)[4])
    assert (database.txid, database.checksum) == (4, primary.database().checksum)
    run(database.sync_log())
    examine_after_power_cuts(primary, replica, 4, tmp_path)


def test_pages_between_two_states_are_refused(primary: World, replica: World, images: list[bytes]) -> None:
    database = replica.database()
    for image in images[:2]:
        append_image(database, image)
    before, after = states_of(primary)[1], states_of(primary)[2]
    with pytest.raises(CommitRefusedError, match="image 0000000000000001 wants"):
        apply(replica, after[: 50 * PAGE_SIZE] + bytes(PAGE_SIZE) + after[51 * PAGE_SIZE :])
    assert database.txid == 0
    apply(replica, before)
    apply(replica, after)
    assert database.txid == 2


def test_no_more_images_come_as_one_step_than_are_looked_at(primary: World, replica: World) -> None:
    database = replica.database()
    player = Player(primary.store)
    for _ in range(AT_ONCE_MAX + 1 - primary.database().txid):
        player.commit(player.change([2]), sync=False)
    reader = LogReader(primary.database().log.directory)
    for ref in reader.images(1, AT_ONCE_MAX + 1):
        append_image(database, reader.read(ref, 0, ref.size))
    reader.close()
    with pytest.raises(CommitRefusedError):
        apply(replica, player.content)
    assert database.txid == 0


def test_a_removal_that_comes_later_allows_none_before_its_turn(
    primary: World, replica: World, images: list[bytes]
) -> None:
    run(primary.store.drop("a.db"))
    reader = LogReader(primary.database().log.directory)
    (ref,) = reader.images(5, 5)
    removal = reader.read(ref, 0, ref.size)
    reader.close()
    database = replica.database()
    for image in [*images, removal]:
        append_image(database, image)
    apply(replica, states_of(primary)[1])
    with pytest.raises(CommitRefusedError):
        run(replica.store.drop("a.db"))
    assert (database.txid, database.exists) == (1, True)
    apply(replica, states_of(primary)[4])
    run(replica.store.drop("a.db"))
    assert (database.txid, database.page_n) == (5, 0)


@pytest.mark.parametrize("order", [(1,), (0, 0), (0, 2), (0, 1, 1)])
def test_what_does_not_follow_is_refused(replica: World, images: list[bytes], order: tuple[int, ...]) -> None:
    database = replica.database()
    for index in order[:-1]:
        append_image(database, images[index])
    with pytest.raises(PositionMismatchError):
        append_image(database, images[order[-1]])
    assert database.logged_txid == len(order) - 1
    assert database.log.last_txid == len(order) - 1


def test_pages_that_are_not_those_of_the_image_are_refused(primary: World, replica: World, images: list[bytes]) -> None:
    database = replica.database()
    append_image(database, images[0])
    content = bytearray(states_of(primary)[1])
    content[3000] ^= 1
    with pytest.raises(CommitRefusedError, match="image 0000000000000001 wants"):
        apply(replica, bytes(content))
    assert (database.txid, database.logged_txid) == (0, 1)
    apply(replica, states_of(primary)[1])
    assert database.txid == 1


def test_a_replica_takes_no_transaction_of_its_own(primary: World, replica: World, images: list[bytes]) -> None:
    append_image(replica.database(), images[0])
    apply(replica, states_of(primary)[1])
    player = Player(replica.store, "a.db", create=False)
    with pytest.raises(NotPrimaryError):
        player.commit(player.change([2]))
    assert replica.database().log.last_txid == 1


def test_no_image_is_taken_beside_a_transaction_that_was_prepared_before_the_demotion(world: World) -> None:
    player = world.player()
    world.commit(player, range(1, 5))
    after = player.change([2])
    player.begin(after, sync=True)
    player.write_pages(after, sync=True)
    other = world.player("other.db")
    reader = LogReader(world.database().log.directory)
    (ref,) = reader.images(2, 2)
    image = reader.read(ref, 0, ref.size)
    reader.close()
    assert other.served.database.txid == 0
    world.gate.primary_until = 0.0
    with pytest.raises(OSError, match="prepared"):
        append_image(world.database(), image)
    player.roll_back()
    append_image(world.database(), image)
    assert (world.database().txid, world.database().logged_txid) == (1, 2)


def test_an_image_that_expands_250_times_is_looked_at_in_little_memory(replica: World, images: list[bytes]) -> None:
    """Equal checksums have the pages counted, and a peer can send equal checksums with any pages."""
    database = replica.database()
    append_image(database, images[0])
    before = database.expected[-1].post_apply
    page_n = (72 << 20) // PAGE_SIZE
    header = LtxHeader(
        page_size=PAGE_SIZE,
        commit=page_n,
        min_txid=Txid(2),
        max_txid=Txid(2),
        timestamp_ms=1,
        pre_apply=Checksum(before),
        flags=FLAG_LZ4,
    )
    page = bytes(PAGE_SIZE)
    bomb = encode_image(header, [(pgno, page) for pgno in range(1, page_n + 1)], before)
    assert len(bomb) < 1 << 20
    with memory_growth_of(64 << 20):
        append_image(database, bomb)
    assert database.expected[-1].txid == 2, "it is not taken for an image without pages"


def unchanged_images(replica: World, state: bytes, n: int, pgnos: Sequence[int]) -> list[bytes]:
    """Returns images that follow a state and hold pages as they are in it: Go LiteFS makes them in WAL mode."""
    database = replica.database()
    last = database.expected[-1].post_apply if database.expected else database.checksum
    pages = [(pgno, state[(pgno - 1) * PAGE_SIZE : pgno * PAGE_SIZE]) for pgno in pgnos]
    return [
        encode_image(
            LtxHeader(
                page_size=PAGE_SIZE,
                commit=len(state) // PAGE_SIZE,
                min_txid=Txid(database.logged_txid + nth),
                max_txid=Txid(database.logged_txid + nth),
                timestamp_ms=1,
                pre_apply=Checksum(last),
            ),
            pages,
            last,
        )
        for nth in range(1, n + 1)
    ]


@pytest.mark.parametrize("pgnos", [(), (1, 3)], ids=["no pages", "pages as they are"])
def test_the_position_moves_over_images_that_change_nothing(
    primary: World, replica: World, images: list[bytes], pgnos: Sequence[int]
) -> None:
    database, state = replica.database(), states_of(primary)[1]
    append_image(database, images[0])
    for image in unchanged_images(replica, state, 2000, pgnos):
        append_image(database, image)
    assert database.txid == 0, "they wait behind the first"
    apply(replica, state)
    assert database.txid == 2001
    for image in unchanged_images(replica, state, 2, pgnos):
        append_image(database, image)
    assert (database.txid, database.logged_txid) == (2003, 2003)
    apply(replica, state)
    assert database.txid == 2003


def test_it_does_so_for_a_spooled_image_too(
    primary: World, replica: World, images: list[bytes], tmp_path: Path
) -> None:
    database, state = replica.database(), states_of(primary)[2]
    append_image(database, images[0])
    append_image(database, images[1])
    apply(replica, states_of(primary)[1])
    apply(replica, state)
    (image,) = unchanged_images(replica, state, 1, range(1, len(state) // PAGE_SIZE + 1))
    path = tmp_path / "replica" / "image.ltx"
    path.write_bytes(image)
    assert run(append_spooled(database, path)) == database.txid == 3
