"""`litefs import` and `litefs export`, against a small HTTP server of the test."""

import http.server
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from litefs.cli import api_client
from litefs.cli import main as cli
from litefs.errors import PeerError
from litefs.formats.sqlite_header import DATABASE_MAGIC
from tests.support.dripping_peer import HALF_A_HEAD, dripping_peer


@dataclass(slots=True)
class Peer:
    """What the server answers, and what it was asked.

    Attributes:
        url: of the server.
        status: of every answer.
        body: of every answer.
        promised_bytes: Content-Length, when it is not that of the body.
        chunked: answer in chunks; without `end_chunks` the last one is missing.
        reads_body: take the request's body before answering.
    """

    url: str = ""
    status: int = 200
    body: bytes = b""
    promised_bytes: int | None = None
    chunked: bool = False
    end_chunks: bool = True
    reads_body: bool = True
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    peer: Peer

    def do_GET(self) -> None:
        self.answer(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])) if self.peer.reads_body else b""
        self.answer(body)

    def answer(self, body: bytes) -> None:
        peer = self.peer
        peer.asked.append((self.command, self.path, body))
        self.close_connection = True
        self.send_response(peer.status)
        if peer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(peer.body), peer.body) + b"0\r\n\r\n" * peer.end_chunks)
            return
        length = len(peer.body) if peer.promised_bytes is None else peer.promised_bytes
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(peer.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the name of the overridden method
        """Keeps the test's output quiet."""


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    handler = type("PeerHandler", (Handler,), {"peer": peer})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        peer.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "source.db"
    connection = sqlite3.connect(path)
    connection.execute("create table t(x)")
    connection.close()
    return path


def export(peer: Peer, path: Path) -> int:
    return cli.run(["export", "-url", peer.url, "-name", "a b.db", str(path)])


def import_(peer: Peer, path: Path) -> int:
    return cli.run(["import", "-url", peer.url, "-name", "a b.db", str(path)])


def test_imports_the_bytes_of_a_file(peer: Peer, database: Path) -> None:
    assert import_(peer, database) == 0
    assert peer.asked == [("POST", "/import?name=a+b.db", database.read_bytes())]


def test_import_shows_the_refusal_of_the_node(peer: Peer, database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer.status, peer.body = 503, b"lease expired\n"
    assert import_(peer, database) == 1
    assert capsys.readouterr().err == f"ERROR: {peer.url}/import: 503 lease expired\n"


def test_import_shows_a_refusal_that_comes_before_the_whole_body_is_sent(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.db"
    with large.open("wb") as file:
        file.write(DATABASE_MAGIC)
        file.truncate(64 << 20)
    peer.status, peer.body, peer.reads_body = 503, b"lease expired\n", False
    assert import_(peer, large) == 1
    # The kernel may throw the answer away together with the connection; then it says that instead.
    assert f"ERROR: {peer.url}/import: " in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_import_refuses_a_file_that_is_not_the_whole_database(
    peer: Peer, database: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    side_file = Path(f"{database}{suffix}")
    side_file.write_bytes(b"x")
    assert import_(peer, database) == 1
    assert f"{side_file} is not empty" in capsys.readouterr().err
    assert peer.asked == []
    side_file.write_bytes(b"")
    assert import_(peer, database) == 0


@pytest.mark.parametrize("content", [b"", DATABASE_MAGIC[:-1], b"create table t(x);\n"])
def test_import_refuses_a_file_that_is_no_database(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "dump.sql").write_bytes(content)
    assert import_(peer, tmp_path / "dump.sql") == 1
    assert capsys.readouterr().err == f"ERROR: {tmp_path}/dump.sql is not a SQLite database\n"
    assert peer.asked == []


def test_import_names_a_missing_file(peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_(peer, tmp_path / "none.db") == 1
    assert f"cannot open {tmp_path}/none.db: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("chunked", [False, True])
def test_exports_what_the_node_sends(peer: Peer, tmp_path: Path, *, chunked: bool) -> None:
    peer.body, peer.chunked = b"database" * 300_000, chunked
    path = tmp_path / "out.db"
    assert export(peer, path) == 0
    assert path.read_bytes() == peer.body
    assert peer.asked == [("GET", "/export?name=a+b.db", b"")]
    assert list(tmp_path.iterdir()) == [path]


def test_export_goes_on_where_one_of_the_same_process_id_was_killed(peer: Peer, tmp_path: Path) -> None:
    """In a container each of them may have the same. What is there may be a copy that could not be put in place."""
    path = tmp_path / "out.db"
    left = tmp_path / f"out.db.{os.getpid()}.tmp"
    left.write_bytes(b"left, and longer than the next")
    peer.status = 503
    assert export(peer, path) == 1
    assert left.exists()
    peer.status, peer.body = 200, b"new"
    assert export(peer, path) == 0
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"out.db": b"new"}


def test_export_replaces_the_database_and_what_belongs_to_the_old_one(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "out.db"
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").write_bytes(b"old")
    peer.body = b"new"
    assert export(peer, path) == 0
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"out.db": b"new"}


@pytest.mark.parametrize(
    ("chunked", "promised_bytes", "message"),
    [(False, 100, "the node closed the connection after 7 of 100 bytes"), (True, None, "/export: ")],
)
def test_an_export_that_breaks_off_leaves_everything_as_it_was(
    peer: Peer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    chunked: bool,
    promised_bytes: int | None,
    message: str,
) -> None:
    path = tmp_path / "out.db"
    for suffix in ("", "-wal"):
        Path(f"{path}{suffix}").write_bytes(b"old")
    peer.body, peer.chunked, peer.end_chunks, peer.promised_bytes = b"partial", chunked, False, promised_bytes
    assert export(peer, path) == 1
    assert message in capsys.readouterr().err
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"out.db": b"old", "out.db-wal": b"old"}


def test_an_export_of_nothing_known_leaves_everything_as_it_was(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.status, peer.body = 404, b"database not found\n"
    assert export(peer, tmp_path / "out.db") == 1
    assert "404 database not found" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_does_not_take_a_directory_for_a_file(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(peer, tmp_path) == 1
    assert capsys.readouterr().err == f"ERROR: cannot write {tmp_path}: Is a directory\n"
    assert peer.asked == []


def test_export_names_a_directory_that_is_missing(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(peer, tmp_path / "none" / "out.db") == 1
    assert f"cannot write {tmp_path}/none/out.db." in capsys.readouterr().err


def test_export_keeps_the_copy_when_it_cannot_be_put_in_place(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.db"
    (tmp_path / "out.db-wal" / "directory").mkdir(parents=True)
    peer.body = b"new"
    assert export(peer, path) == 1
    message = capsys.readouterr().err
    assert f"cannot replace {path}: " in message
    assert Path(message.split("the copy is complete in ")[1].strip()).read_bytes() == b"new"


def test_a_node_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
    assert cli.run(["export", "-url", url, "-name", "x", str(tmp_path / "out.db")]) == 1
    assert capsys.readouterr().err == f"ERROR: {url}/export: Connection refused\n"


def test_a_silent_node_is_given_up(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_client, "SILENCE_S_MAX", 0.05)
    peer.promised_bytes = 10
    silent = threading.Event()
    monkeypatch.setattr(Handler, "finish", lambda _self: silent.wait(10))
    try:
        assert export(peer, tmp_path / "out.db") == 1
    finally:
        silent.set()
    assert "/export: timed out" in capsys.readouterr().err


@pytest.mark.parametrize("first", [HALF_A_HEAD, b"HTTP/1.0 500 No\r\n\r\n"], ids=["head", "error"])
def test_an_answer_that_drips_is_given_up(first: bytes) -> None:
    with (
        dripping_peer(first) as port,
        pytest.raises(PeerError, match=r"no answer within 0\.3 s"),
        api_client.request(f"http://127.0.0.1:{port}", "POST", "/promote", silence_s=0.3),
    ):
        pass
