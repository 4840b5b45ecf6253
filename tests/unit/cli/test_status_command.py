"""The tables of `litefs status`."""

from litefs.cli.status_command import format_time, render, table
from litefs.http.status import DatabaseStatus, FollowerStatus, Status

DATABASE = DatabaseStatus(
    name="app.db",
    position="000000000000000a/8000000000000001",
    page_size=4096,
    page_n=512,
    journal="wal",
    pending_n=3,
    timestamp_ms=1_700_000_000_000,
)
FOLLOWER = FollowerStatus(
    node_id="00000000000000AB",
    address="10.0.0.2",
    connected_s=61.4,
    ready=True,
    behind_n=2,
    sent_bytes=1 << 20,
    positions={"app.db": "0000000000000008/8000000000000002"},
)


def status(databases: list[DatabaseStatus], followers: list[FollowerStatus], lag_ms: int | None) -> Status:
    return Status(
        node_id="0000000000000001",
        cluster_id="",
        role="replica",
        candidate=False,
        ready=True,
        primary_hostname="node-1",
        lag_ms=lag_ms,
        databases=databases,
        followers=followers,
    )


def test_shows_facts_databases_and_followers() -> None:
    assert (
        render(status([DATABASE], [FOLLOWER], 12))
        == """\
node:      0000000000000001
cluster:   unknown
role:      replica
candidate: no
ready:     yes
primary:   node-1
lag:       12 ms

DATABASE  TXID              CHECKSUM          SIZE    JOURNAL  PENDING  LAST CHANGE
app.db    000000000000000a  8000000000000001  2.0 MB  wal      3        2023-11-14 22:13:20

FOLLOWER          ADDRESS   CONNECTED  READY  BEHIND  SENT
00000000000000AB  10.0.0.2  61 s       yes    2       1.0 MB"""
    )


def test_leaves_empty_tables_out() -> None:
    text = render(status([], [], None))
    assert text.endswith("lag:       unknown")
    assert "DATABASE" not in text
    assert "FOLLOWER" not in text


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "B"), [("long", "x"), ("y", "")]) == "A     B\nlong  x\ny"


def test_an_unknown_time_is_a_dash() -> None:
    assert format_time(0) == "-"
