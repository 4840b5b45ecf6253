"""The tables of `litefs status`."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

import litefs
from litefs.cli.status_command import format_time, render, run, table
from litefs.errors import ConfigError
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
node:       0000000000000001
cluster:    unknown
role:       replica
candidate:  no
ready:      yes
primary:    node-1
lag:        12 ms
durability: as-asked

DATABASE  TXID              CHECKSUM          SIZE    JOURNAL  PENDING  LAST CHANGE
app.db    000000000000000a  8000000000000001  2.0 MB  wal      3        2023-11-14 22:13:20

FOLLOWER          ADDRESS   CONNECTED  READY  BEHIND  SENT
00000000000000AB  10.0.0.2  61 s       yes    2       1.0 MB"""
    )


def test_leaves_empty_tables_out() -> None:
    text = render(status([], [], None))
    assert "lag:        unknown" in text
    assert "DATABASE" not in text
    assert "FOLLOWER" not in text


def test_a_primary_without_a_name_is_no_unknown_one() -> None:
    nameless = msgspec.structs.replace(status([], [], 0), primary_hostname="")
    assert "primary:    unknown" in render(nameless)
    assert "primary:    this node" in render(msgspec.structs.replace(nameless, role="primary"))


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table(("A", "B"), [("long", "x"), ("y", "")]) == "A     B\nlong  x\ny"


def test_an_unknown_time_is_a_dash() -> None:
    assert format_time(0) == "-"


def test_shows_the_time_left_of_a_lease() -> None:
    lines = render(msgspec.structs.replace(status([], [], 0), role="primary", lease_remaining_s=7.25)).splitlines()
    assert lines[-1] == "lease:      7.2 s"


@pytest.mark.parametrize("interval", ["0", "-1", "0.01", "soon", "nan", "inf"])
def test_an_interval_that_is_none_is_refused(interval: str) -> None:
    with pytest.raises(ConfigError, match=r"^-interval "):
        run(["-watch", "-interval", interval])


def test_a_watch_goes_on_while_the_node_is_away_and_ends_when_it_is_interrupted() -> None:
    """Another program reads what it prints: a pipe, so without the codes of a terminal."""
    document = msgspec.json.encode(status([DATABASE], [], 3))
    with ThreadingHTTPServer(("127.0.0.1", 0), _answering(document)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        # What a shell without job control runs in the background ignores SIGINT, and so do its children.
        command = ["env", "--default-signal=INT", sys.executable, "-m", "litefs", "status", "-url", url]
        command += ["-watch", "-interval", "0.1"]
        environment = os.environ | {"PYTHONPATH": str(Path(litefs.__file__).parents[1])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as watcher:
            assert watcher.stdout is not None
            assert _comes(watcher.stdout, "app.db")
            server.shutdown()
            server.server_close()
            assert _comes(watcher.stdout, "refused")
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(20) == 0


def _comes(lines: Iterable[str], text: str) -> bool:
    return any(text in line for line in lines)


def _answering(document: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(document)))
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler
