"""Files that replication makes: whoever may use the database may use them, and nobody else."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support import children
from tests.support.cluster import Cluster
from tests.support.litefs_node import LitefsNode, Pair

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

READER, STRANGER = 65534, 65533

READ_AS = """
import os, sqlite3, sys
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
connection = sqlite3.connect(path)
print(connection.execute("SELECT count(*) FROM t").fetchone()[0])
"""


@pytest.fixture
def shared() -> Iterator[Cluster]:
    """A pair of nodes that check permissions, in directories that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="litefs-test-") as directory:
        Path(directory).chmod(0o755)
        pair = Pair(Path(directory))
        for node in (pair.primary, pair.replica):
            text = node.config_path.read_text()
            options = "fuse:\n  allow-other: true\n  default-permissions: true\n"
            node.config_path.write_text(text.replace("fuse:\n", options))
        pair.start()
        cluster = Cluster(pair, "shared")
        yield cluster
        cluster.close()
        pair.stop()


def read_as(node: LitefsNode, uid: int, path: Path) -> children.Finished:
    return children.run([sys.executable, "-c", READ_AS, str(uid), path], free=node.free)


def attributes(node: LitefsNode, path: Path) -> dict[str, str]:
    """Mode, owner and group of the database and the files beside it that are there."""
    command = ["sh", "-c", f"for suffix in '' -wal -shm -journal; do stat -c '%n %a %u:%g' '{path}'$suffix; done; true"]
    lines = children.checked(command, free=node.free).splitlines()
    return {Path(name).name.removeprefix(path.name): rest for name, _, rest in (line.partition(" ") for line in lines)}


@pytest.mark.parametrize("rows", [30, 4000], ids=["image", "replacement"])
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_any_user_reads_a_database_that_came_by_replication(shared: Cluster, mode: str, rows: int) -> None:
    shared.replica.stop()
    writer = filled(shared, mode, rows=rows)
    shared.replica.start()
    writer.sql("INSERT INTO t VALUES (100000, 'x')")
    shared.sync()
    path = shared.readers.path()
    done = read_as(shared.replica, READER, path)
    assert done.out == f"{rows + 1}\n", done.err
    expected = dict.fromkeys(["", "-wal", "-shm"] if mode == "WAL" else [""], "666 0:0")
    assert attributes(shared.replica, path) == expected


def test_what_is_made_beside_a_database_has_its_mode_and_owner(shared: Cluster) -> None:
    writer = filled(shared, "WAL")
    shared.sync()
    path = shared.readers.path()
    change = ["sh", "-c", f"chmod 640 '{path}' && chown {READER}:{READER} '{path}'"]
    children.checked(change, free=shared.replica.free)
    shared.replica.restart()
    writer.sql("INSERT INTO t VALUES (100000, 'x')")
    shared.sync()
    assert attributes(shared.replica, path) == dict.fromkeys(["", "-wal", "-shm"], f"640 {READER}:{READER}")
    assert read_as(shared.replica, READER, path).out == "31\n"
    done = read_as(shared.replica, STRANGER, path)
    assert "unable to open database file" in done.err
    assert done.out == ""


def test_a_new_database_is_its_directorys(shared: Cluster) -> None:
    """Whoever owns the mount on a node owns what replication makes there."""
    mount = shared.replica.mount_dir
    subprocess.run(["sh", "-c", f"chown {READER}:{READER} '{mount}' && chmod 750 '{mount}'"], timeout=10, check=True)
    filled(shared, "WAL")
    shared.sync()
    path = shared.readers.path()
    assert attributes(shared.replica, path) == dict.fromkeys(["", "-wal", "-shm"], f"640 {READER}:{READER}")
    assert read_as(shared.replica, READER, path).out == "30\n"
    assert "unable to open database file" in read_as(shared.replica, STRANGER, path).err
