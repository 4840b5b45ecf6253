"""A replica whose disk takes long to sync a snapshot, or refuses it: other databases go on, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_replication import filled
from tests.support.cluster import Cluster, await_true, follower_of
from tests.support.litefs_node import LitefsNode
from tests.support.scenario import Connection
from tests.support.verdict import await_position, check_database, check_replica

QUICK = '  reconnect-delay: "50ms"\n'
SYNC_S = 8.0
"""Long beside a few commits, on a machine with other load too."""

ROWS = 4000
"""A state that is no ordinary image."""


@pytest.fixture
def late(own_cluster: Cluster, tmp_path: Path) -> Iterator[LitefsNode]:
    """A replica that is not started yet, of a primary with a large database and a small one."""
    late = follower_of(own_cluster.primary, tmp_path / "late", extra=QUICK)
    yield late
    late.stop()


def position_of(cluster: Cluster, node: LitefsNode, name: str) -> str:
    return node.read(cluster.writers.path(name).name + "-pos").strip()


def await_same(cluster: Cluster, late: LitefsNode, name: str) -> None:
    path = late.mount_dir / cluster.writers.path(name).name
    await_position(late, path, cluster.position(name), timeout_s=60)


def check(cluster: Cluster, late: LitefsNode, name: str) -> None:
    finding = check_database(cluster.primary, cluster.writers.path(name))
    check_replica(late, late.mount_dir / cluster.writers.path(name).name, finding)


def incoming_size(cluster: Cluster, late: LitefsNode, name: str) -> int:
    directory = late.data_dir / "dbs" / cluster.writers.path(name).name
    files = [file for file in directory.glob("incoming-*") if file.suffix != ".sums"]
    return max((file.stat().st_size for file in files), default=0)


def databases(cluster: Cluster) -> tuple[Connection, Connection, int]:
    """Makes both. Returns a connection to each, and the size of the large one."""
    large, small = filled(cluster, "WAL", name="large", rows=ROWS), filled(cluster, "WAL", name="small")
    ((pages, page_size),) = large.sql("SELECT * FROM pragma_page_count, pragma_page_size")
    return large, small, int(str(pages)) * int(str(page_size))


def test_commits_of_another_database_arrive_while_a_snapshot_is_synced(own_cluster: Cluster, late: LitefsNode) -> None:
    cluster = own_cluster
    large, small, size = databases(cluster)
    late.environment["LITEFS_FAULTS"] = f"delay:incoming.sync:{SYNC_S}"
    late.start()
    await_true(lambda: incoming_size(cluster, late, "large") == size, "the snapshot has come", timeout_s=60)
    await_true(lambda: position_of(cluster, late, "small"), "the small database is there")
    for row in range(1000, 1005):
        large.sql("INSERT INTO t VALUES (?, randomblob(2000))", row + ROWS)
        small.sql("INSERT INTO t VALUES (?, randomblob(2000))", row)
    await_same(cluster, late, "small")
    assert not position_of(cluster, late, "large"), "its sync was still under way"
    await_same(cluster, late, "large")
    check(cluster, late, "large")
    check(cluster, late, "small")
    assert late.log_text().count("snapshot at") == 1, "what followed the snapshot came as images"


def test_a_snapshot_that_the_disk_refuses_at_the_end_is_asked_for_again(
    own_cluster: Cluster, late: LitefsNode, tmp_path: Path
) -> None:
    cluster = own_cluster
    _, small, _ = databases(cluster)
    flag = tmp_path / "disk-is-full"
    flag.touch()
    late.environment["LITEFS_FAULTS"] = f"full:incoming.sums*:{flag}"
    late.start()
    await_true(lambda: late.log_text().count("snapshot: [Errno 28]") >= 1, "it is refused", timeout_s=60)
    assert not position_of(cluster, late, "large")
    small.sql("INSERT INTO t VALUES (1000, 'x')")
    await_same(cluster, late, "small")
    flag.unlink()
    await_same(cluster, late, "large")
    check(cluster, late, "large")
    check(cluster, late, "small")
