"""Damaged files in the data directory: the start says which and why, and deletes nothing; a replica goes on."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from litefs.errors import CorruptStateError, DataDirVersionError
from litefs.storage.data_dir import DataDir
from litefs.storage.database import CommitGate, StoreSettings
from litefs.storage.disk import Disk
from litefs.storage.log_reader import LogReader
from litefs.storage.must_follow import MustFollow
from litefs.storage.set_aside import SET_ASIDE_MAX
from litefs.storage.store import Store
from tests.support.faulty_disk import FaultyDisk, QuickDisk
from tests.support.storage_world import World

Damage = Callable[[Path], None]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink()


def only_segment(directory: Path) -> Path:
    (segment,) = (directory / "log").glob("*.ltxlog")
    return segment


def image_offset(directory: Path, txid: int) -> int:
    reader = LogReader(directory / "log")
    try:
        return next(reader.images(txid, txid)).offset
    finally:
        reader.close()


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "a flipped bit in the base": (lambda d: flip(d / "database", 3500), "a.db/database", "the pages give checksum"),
    "a base cut short": (lambda d: cut(d / "database", 2048), "a.db/database", "2048 bytes, expected 4096"),
    "an empty base": (lambda d: cut(d / "database", 0), "a.db/database", "0 bytes, expected 4096"),
    "no base": (lambda d: (d / "database").unlink(), "a.db/database", "0 bytes, expected 4096"),
    "a flipped bit in the state": (lambda d: flip(d / "state", 20), "a.db/state", "wrong checksum"),
    "a state cut short": (lambda d: cut(d / "state", 30), "a.db/state", "wrong checksum"),
    "an empty state": (lambda d: cut(d / "state", 0), "a.db/state", "wrong checksum"),
    "neither state nor log": (
        lambda d: remove(d / "state", only_segment(d)),
        "a.db",
        "the database file holds 4096 bytes, and neither state file nor log say what they are",
    ),
    "a flipped bit in a segment header": (lambda d: flip(only_segment(d), 20), ".ltxlog", "wrong CRC"),
    "an empty segment": (lambda d: cut(only_segment(d), 0), ".ltxlog", "no log segment"),
    "a flipped bit in an image that was durable": (
        lambda d: flip(only_segment(d), image_offset(d, 3) + 500),
        ".ltxlog",
        "image 0000000000000003 is damaged or missing, and image 0000000000000004 says that it was durable",
    ),
    "no log": (lambda d: only_segment(d).unlink(), "a.db/database", "the pages give checksum"),
}
each_damage = pytest.mark.parametrize(("damage", "path", "reason"), DAMAGES.values(), ids=DAMAGES.keys())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory with S = 2 and images 3 to 5 in the only segment of its log, and a healthy second database."""
    world = World(tmp_path, QuickDisk())
    players = [world.player(name) for name in ("a.db", "b.db")]
    for player in players:
        world.commit(player, range(1, 5))
        world.commit(player, [2])
    world.tidy()
    for player in players:
        assert world.database(player.name).base_txid == 2
        for pgno in (2, 3, 2):
            world.commit(player, [pgno])
    assert not world.refusals
    world.close()
    segments = sorted((tmp_path / "dbs/a.db/log").glob("*.ltxlog"))
    assert len(segments) == 1
    return tmp_path


def fingerprint(root: Path) -> dict[str, str]:
    """All files below a directory; those that every start writes, and a segment to be, are left out."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("starts", "starts.tmp") and not path.name.startswith("spare-")
    }


def open_store(root: Path, *, set_aside_damaged: bool = False, disk: Disk | None = None) -> Store:
    disk = disk or QuickDisk()
    data_dir = DataDir(root, disk)
    store = Store(data_dir, disk, StoreSettings(node_id=1), CommitGate(0.0, lambda: 1.0))
    try:
        store.open(lambda name, done, total: None, set_aside_damaged=set_aside_damaged)
    finally:
        store.close()
        data_dir.close()
    return store


@each_damage
def test_a_start_names_what_is_damaged_and_deletes_nothing(root: Path, damage: Damage, path: str, reason: str) -> None:
    damage(root / "dbs/a.db")
    before = fingerprint(root)
    with pytest.raises(CorruptStateError) as caught:
        open_store(root)
    assert path in str(caught.value)
    assert reason in str(caught.value)
    after = fingerprint(root)
    assert after.keys() >= before.keys()
    # The base may have taken pages of images that the log holds; nothing else may be other than before.
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"dbs/a.db/database", "dbs/b.db/database"}


@each_damage
def test_a_replica_sets_what_is_damaged_aside_and_serves_the_rest(
    root: Path, damage: Damage, path: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(root / "dbs/a.db")
    kept = {name.removeprefix("dbs/a.db/") for name in fingerprint(root) if name.startswith("dbs/a.db/")}
    store = open_store(root, set_aside_damaged=True)
    assert store.names() == ["b.db"]
    assert store.databases["b.db"].database.txid == 5
    assert not (root / "dbs/a.db").exists()
    assert {*fingerprint(root / "dbs-aside/a.db-1")} >= kept
    assert reason in caplog.text
    assert "a.db-1" in caplog.text


def test_sets_few_damaged_databases_aside(root: Path) -> None:
    for _ in range(SET_ASIDE_MAX + 2):
        (root / "dbs/c.db/log").mkdir(parents=True)
        (root / "dbs/c.db/database").write_bytes(b"x" * 512)
        open_store(root, set_aside_damaged=True)
    names = sorted(path.name for path in (root / "dbs-aside").iterdir())
    # The first, and the newest: what came in between was of a primary, and damaged as well.
    assert names == ["c.db-1", *(f"c.db-{number}" for number in range(4, SET_ASIDE_MAX + 3))]
    MustFollow(Disk(), root).clear()
    (root / "dbs/c.db/log").mkdir(parents=True)
    (root / "dbs/c.db/database").write_bytes(b"x" * 512)
    open_store(root, set_aside_damaged=True)
    assert not (root / "dbs-aside/c.db-1").exists()


def test_what_may_be_the_only_copy_is_kept_however_much_is_damaged(root: Path) -> None:
    names = ["c.db", "d.db", "new\nline.db", "line\u2028separator.db", "back\\nslash.db", "名前.db"]
    for name in names:
        (root / f"dbs/{name}/log").mkdir(parents=True)
        (root / f"dbs/{name}/database").write_bytes(b"x" * 512)
    open_store(root, set_aside_damaged=True)
    assert len(names) > SET_ASIDE_MAX
    assert {path.name.rpartition("-")[0] for path in (root / "dbs-aside").iterdir()} == set(names)
    assert MustFollow(Disk(), root).kept == {path.name for path in (root / "dbs-aside").iterdir()}


def test_a_node_that_could_not_note_that_it_must_follow_sets_nothing_aside(root: Path) -> None:
    """Whatever fails: with a database moved away and no mark, it would become primary without that database."""
    flip(root / "dbs/a.db/state", 20)
    with pytest.raises(OSError, match="no room for the mark"):
        open_store(root, set_aside_damaged=True, disk=WithoutMark())
    assert (root / "dbs/a.db/state").exists()
    assert not MustFollow(Disk(), root).is_set


class WithoutMark(QuickDisk):
    """A disk on which a node cannot note that it must follow."""

    def replace_file(self, label: str, path: Path, content: bytes) -> None:
        if label.startswith("must_follow."):
            raise OSError("no room for the mark")
        super().replace_file(label, path, content)


@pytest.mark.parametrize("label", ["must_follow.get.open", "must_follow.get.read"])
def test_a_mark_that_cannot_be_read_is_not_taken_for_none(root: Path, label: str) -> None:
    """Taken for none, the next one would be written over it, and what may be the only copy would go."""
    disk = FaultyDisk(root)
    MustFollow(disk, root).add("b.db-1")
    calls_before = len(disk.calls)
    MustFollow(disk, root)
    disk.fail_at = len(disk.calls) + 1 + disk.calls[calls_before:].index(label)
    with pytest.raises(OSError, match=label):
        MustFollow(disk, root)
    assert MustFollow(disk, root).kept == {"b.db-1"}


def test_a_torn_last_image_ends_the_log_and_is_no_damage(root: Path) -> None:
    segment = only_segment(root / "dbs/a.db")
    data = segment.read_bytes()
    flip(segment, len(data.rstrip(b"\0")) - 40)
    store = open_store(root)
    assert store.databases["a.db"].database.txid == 4


def test_a_log_from_the_first_image_on_makes_up_for_a_lost_state_file(root: Path) -> None:
    (root / "dbs/a.db/state").unlink()
    store = open_store(root)
    assert store.databases["a.db"].database.txid == 5


def test_pages_without_state_and_log_are_not_taken_for_an_empty_database(tmp_path: Path) -> None:
    open_store(tmp_path)
    (tmp_path / "dbs/a.db/log").mkdir(parents=True)
    (tmp_path / "dbs/a.db/database").write_bytes(b"x" * 4096)
    with pytest.raises(CorruptStateError, match="neither state file nor log"):
        open_store(tmp_path)
    assert (tmp_path / "dbs/a.db/database").read_bytes() == b"x" * 4096


def test_a_directory_of_another_layout_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path)
    (tmp_path / "version").write_text("2\n")
    with pytest.raises(DataDirVersionError, match="layout 2"):
        open_store(tmp_path)


def test_a_directory_of_the_original_litefs_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dbs" / "app.db" / "ltx").mkdir(parents=True)
    (tmp_path / "dbs" / "app.db" / "database").write_bytes(b"SQLite format 3")
    with pytest.raises(DataDirVersionError, match=r"belongs to LiteFS 0\.5"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dbs"]


@pytest.mark.parametrize("name", ["id", "starts"])
def test_a_damaged_number_is_named(tmp_path: Path, name: str) -> None:
    open_store(tmp_path)
    (tmp_path / name).write_text("?\n")
    with pytest.raises(CorruptStateError, match=name):
        open_store(tmp_path)
