"""Transactions that leave the checksum of the database where it was, although they change pages.

The checksum is the XOR of CRCs, and a CRC is linear: the same difference in an even number of pages, at the same
offset of each, cancels out. So equal checksums must nowhere be taken for "nothing has changed".
"""

import os
import signal

import pytest

from tests.support.cluster import Cluster
from tests.support.scenario import Connection

MODES = ("DELETE", "WAL")


def _counters(cluster: Cluster, mode: str) -> Connection:
    """Makes a table with one counter per page, each at the same offset of its page."""
    writer = cluster.writers.connect()
    writer.sql(f"PRAGMA journal_mode = {mode}")
    writer.sql("CREATE TABLE counters (n INTEGER, filler BLOB)")
    writer.many("INSERT INTO counters VALUES (?, zeroblob(3000))", [[100] for _ in range(20)])
    return writer


def test_a_transaction_whose_differences_cancel_out_is_applied(cluster: Cluster) -> None:
    writer = _counters(cluster, "WAL")
    before = cluster.sync()
    for amount in (1, 2, 4):
        writer.sql("UPDATE counters SET n = n + ?", amount)
        after = cluster.sync()
        assert after.partition("/")[2] == before.partition("/")[2], "this transaction was to leave the checksum"
        cluster.check()
    assert cluster.readers.connect().sql("SELECT sum(n) FROM counters") == [[20 * 107]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["node_process", "filesystem_process"])
def test_it_is_applied_also_when_a_process_of_the_replica_dies(own_cluster: Cluster, mode: str, program: str) -> None:
    writer = _counters(own_cluster, mode)
    own_cluster.check()
    for round_ in range(3):
        for amount in range(1, 12):
            writer.sql("UPDATE counters SET n = n + ?", amount)
            if amount == 4 + round_:
                os.kill(own_cluster.replica.child_pid(program), signal.SIGKILL)
        own_cluster.check()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["node_process", "filesystem_process"])
def test_it_survives_a_death_on_the_primary(own_cluster: Cluster, mode: str, program: str) -> None:
    writer = _counters(own_cluster, mode)
    for amount in (1, 2, 4):
        writer.sql("UPDATE counters SET n = n + ?", amount)
    before = own_cluster.check()
    writer.process.kill()
    os.kill(own_cluster.primary.child_pid(program), signal.SIGKILL)
    script = (
        "for _ in $(seq 300); do sqlite3 \"$1\" 'UPDATE counters SET n = n + 8' 2>/dev/null && exit 0;"
        " sleep 0.02; done; exit 1"
    )
    own_cluster.writers.run("sh", "-c", script, "sh", own_cluster.writers.path())
    after = own_cluster.check()
    assert after.txid == before.txid + 1
    assert own_cluster.readers.connect().sql("SELECT sum(n) FROM counters") == [[20 * 115]]
