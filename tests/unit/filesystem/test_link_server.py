"""The filesystem's side of the link, spoken to over a real socket, on a real store."""

import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from litefs.errors import DiskLostError, NotPrimaryError
from litefs.filesystem import link_server
from litefs.formats.checksum import EMPTY_DATABASE_CHECKSUM
from litefs.link import messages as m
from litefs.link.channel import MESSAGE_BYTES_MAX, encode
from litefs.storage.log_reader import LogReader
from tests.support.fuseless_link import NODE_PID, Link, new_state, pause
from tests.support.fuseless_mount import FuselessMount, context
from tests.support.sqlite_player import PAGE_SIZE


def images_of(tmp_path: Path, commit_n: int) -> list[bytes]:
    """The images of a primary's first transactions on `a.db`."""
    mount = FuselessMount(tmp_path / "origin")
    fh = mount.create("a.db")
    for counter in range(1, commit_n + 1):
        mount.commit("a.db", fh, counter)
    reader = LogReader(mount.store.directory("a.db") / "log")
    images = [reader.read(ref, 0, ref.size) for ref in reader.images(1, commit_n)]
    reader.close()
    mount.close()
    return images


# ---- greeting and role ----


def test_the_welcome_names_every_database_with_its_position(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.mount.create("b.db")
    welcome = link.greet()
    database = link.mount.database("a.db")
    assert [info.name for info in welcome.databases] == ["a.db", "b.db"]
    info = welcome.databases[0]
    assert (info.txid, info.checksum, info.page_size, info.page_n) == (1, database.checksum, PAGE_SIZE, 2)
    assert (info.logged_txid, info.is_wal, info.timestamp_ms) == (1, False, database.timestamp_ms)
    assert (welcome.databases[1].txid, welcome.databases[1].checksum) == (0, EMPTY_DATABASE_CHECKSUM)


def test_the_greeting_tells_who_the_applier_is(link: Link) -> None:
    assert link.mount.operations.node_pid == 0
    link.greet()
    assert link.mount.operations.node_pid == NODE_PID


def shown_txid(link: Link) -> int:
    """What `a.db-pos` says now."""
    number = link.mount.lookup("a.db-pos").st_ino
    info = link.mount.do(link.mount.operations.open(number, os.O_RDONLY, context()))
    content = link.mount.do(link.mount.operations.read(info.fh, 0, 100))
    return int(content[:16], 16)


def test_a_position_that_came_through_a_wal_shows_when_the_applier_says_so(link: Link) -> None:
    """The last frame is here a moment before the wal-index shows it to readers."""
    link.greet()
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.mount.database("a.db").withhold_position()
    link.mount.commit("a.db", fh, 2)
    assert shown_txid(link) == 1
    link.send(m.Applied("a.db", 1))
    link.send(m.Applied("absent.db", 2))
    link.settle()
    assert shown_txid(link) == 1, "an older one ends while the next arrives"
    link.send(m.Applied("a.db", 2))
    link.settle()
    assert shown_txid(link) == 2


def test_an_applier_that_died_withholds_nothing(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.mount.database("a.db").withhold_position()
    link.mount.commit("a.db", fh, 2)
    link.greet()
    assert shown_txid(link) == 2


def test_commits_and_refusals_are_counted(link: Link) -> None:
    link.greet()
    fh = link.mount.create("a.db")
    for counter in (1, 2):
        link.mount.commit("a.db", fh, counter)
    link.mount.operations.answer_to(NotPrimaryError("no"), "write")
    link.mount.operations.answer_to(OSError(errno.ENOSPC, "full"), "write")
    link.mount.operations.answer_to(OSError(errno.EIO, "disk"), "write")
    link.mount.operations.answer_to(KeyError("a bug is no refusal"), "write")
    *_, answer = link.ask(m.AskCounters())
    assert isinstance(answer, m.Counters)
    assert answer.refused_n == {"not-primary": 1, "not-captured": 0, "refused": 0, "disk-full": 1, "disk": 1}
    counts, sum_s = answer.commit_latencies["a.db"]
    assert sum(counts) == 2
    assert 0 < sum_s < 60


def test_a_role_moves_the_deadline_and_is_announced(link: Link) -> None:
    for until, is_open in ((0.0, False), (float("inf"), True)):
        assert link.ask(m.SetRole(until)) == []
        assert link.mount.gate.is_open is is_open
    assert link.role_changes == 2


def test_what_the_node_says_of_the_cluster_is_shown(link: Link) -> None:
    listed_ns = link.mount.operations.inodes.root.mtime_ns
    assert link.ask(m.SetPrimary("node-7"), m.SetLag(123)) == []
    assert (link.mount.view.primary, link.mount.view.primary_timestamp_ms) == ("node-7", 123)
    assert link.mount.lookup(".primary").st_size == len("node-7\n")
    assert link.mount.operations.inodes.root.mtime_ns > listed_ns, "the kernel must not believe its old listing"


# ---- order ----


def test_answers_come_in_the_order_of_the_questions_though_some_wait_for_the_disk(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    answers = link.ask(
        new_state(link),
        m.OpenSnapshot("a.db"),
        m.OpenSnapshot("none.db"),
        m.AppendImages("b.db", [b"no image"]),
        m.OpenSnapshot("a.db"),
    )
    kinds = [type(answer) for answer in answers]
    assert kinds == [m.ReplacementReady, m.SnapshotOpened, m.Rejected, m.Rejected, m.SnapshotOpened]


def test_requests_that_arrive_byte_by_byte_are_answered(link: Link) -> None:
    for byte in encode(m.Hello(NODE_PID)):
        link.socket.sendall(bytes([byte]))
        link.settle()
    assert [type(each) for each in link.received()] == [m.Welcome]


def test_an_answer_larger_than_the_sockets_buffer_arrives_whole(link: Link) -> None:
    names = [f"{index:03}-{'x' * 200}.db" for index in range(200)]
    for name in names:
        link.mount.store.create(name)
    theirs = link.server._socket
    assert theirs is not None
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link.socket.sendall(encode(m.Hello(NODE_PID)) + encode(m.OpenSnapshot("none.db")))
    received: list[m.FilesystemMessage] = []
    for _ in range(2000):
        if len(received) == 2:
            break
        link.mount.do(pause(link))
        received += link.received()
    welcome, rejected = received
    assert isinstance(welcome, m.Welcome)
    assert [info.name for info in welcome.databases] == names
    assert isinstance(rejected, m.Rejected)


# ---- what the filesystem tells ----


def committed(messages: list[m.FilesystemMessage]) -> list[tuple[str, int]]:
    return [(each.database.name, each.database.txid) for each in messages if isinstance(each, m.Committed)]


def test_commits_are_told_once_until_they_are_seen(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.greet()
    link.send(m.SetListening(True))
    for counter in (1, 2, 3):
        link.mount.commit("a.db", fh, counter)
    assert committed(link.received()) == [("a.db", 1)]
    assert committed(link.ask(m.Seen("a.db"))) == [("a.db", 3)]
    assert committed(link.ask(m.Seen("a.db"))) == []
    link.mount.commit("a.db", fh, 4)
    assert committed(link.received()) == [("a.db", 4)]


def test_while_nobody_listens_the_next_commit_is_told_after_apause(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    pause_s = 0.3  # long beside what a busy machine needs for a commit
    monkeypatch.setattr(link_server, "UNHEARD_PAUSE_S", pause_s)
    fh = link.mount.create("a.db")
    link.greet()
    link.mount.commit("a.db", fh, 1)
    assert committed(link.ask(m.Seen("a.db"))) == [("a.db", 1)]
    link.mount.commit("a.db", fh, 2)
    assert link.received() == []
    link.mount.do(pause(link, 1.5 * pause_s))
    assert committed(link.received()) == [("a.db", 2)]


def test_while_nobody_listens_commits_of_all_databases_are_told_together(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.3
    monkeypatch.setattr(link_server, "UNHEARD_PAUSE_S", pause_s)
    handles = {name: link.mount.create(name) for name in ("a.db", "b.db", "c.db")}
    link.greet()
    for name, fh in handles.items():
        link.mount.commit(name, fh, 1)
    assert committed(link.received()) == [("a.db", 1)]
    link.mount.do(pause(link, 1.5 * pause_s))
    assert sorted(committed(link.received())) == [("b.db", 1), ("c.db", 1)]


def test_a_replica_is_told_at_once_though_nobody_listens(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.greet()
    for counter in (1, 2):
        link.mount.commit("a.db", fh, counter)
    assert committed(link.ask(m.SetRole(0.0), m.Seen("a.db"))) == [("a.db", 1), ("a.db", 2)]


def test_databases_do_not_hold_each_other_up(link: Link) -> None:
    handles = {name: link.mount.create(name) for name in ("a.db", "b.db")}
    link.greet()
    link.send(m.SetListening(True))
    for counter in (1, 2):
        for name, fh in handles.items():
            link.mount.commit(name, fh, counter)
    assert committed(link.received()) == [("a.db", 1), ("b.db", 1)]
    assert committed(link.ask(m.Seen("b.db"))) == [("b.db", 2)]


def test_a_state_of_the_same_txid_but_another_checksum_is_told(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.greet()
    link.send(m.SetListening(True))
    link.mount.commit("a.db", fh, 1)
    link.received()
    database = link.mount.database("a.db")
    database.checksum ^= 1
    assert committed(link.ask(m.Seen("a.db"))) == [("a.db", 1)]


def test_seeing_what_was_never_told_is_nothing(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    assert link.ask(m.Seen("a.db"), m.Seen("none.db")) == []


def test_nothing_is_told_before_the_greeting(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.settle()
    assert link.received() == []


def test_a_new_shared_memory_file_is_told(link: Link) -> None:
    link.mount.create("a.db")
    link.greet()
    link.mount.create("a.db-shm")
    assert link.received() == [m.ShmCreated("a.db")]


# ---- images ----


def test_images_go_into_the_log_and_wait_for_their_pages(replica: Link, tmp_path: Path) -> None:
    first, second = images_of(tmp_path, 2)
    replica.greet()
    assert replica.ask(m.AppendImages("a.db", [first])) == [m.Appended("a.db", 1)]
    spooled = replica.mount.data_dir.path / "spool" / "image"
    spooled.write_bytes(second)
    assert replica.ask(m.AppendSpooledImage("a.db", str(spooled))) == [m.Appended("a.db", 2)]
    database = replica.mount.database("a.db")
    assert (database.txid, database.logged_txid) == (0, 2)
    assert not database.exists
    reader = LogReader(replica.mount.store.directory("a.db") / "log")
    assert [reader.read(ref, 0, ref.size) for ref in reader.images(1, 2)] == [first, second]
    reader.close()


def test_an_image_that_does_not_follow_is_rejected_with_the_position(replica: Link, tmp_path: Path) -> None:
    _, second = images_of(tmp_path, 2)
    replica.greet()
    (answer,) = replica.ask(m.AppendImages("a.db", [second]))
    assert isinstance(answer, m.Rejected)
    assert (answer.name, answer.txid, answer.checksum) == ("a.db", 0, EMPTY_DATABASE_CHECKSUM)
    assert replica.mount.database("a.db").logged_txid == 0


@pytest.mark.parametrize("image", [b"", b"short", bytes(100), bytes(5000)])
def test_garbage_for_an_image_is_rejected_and_the_link_stays(replica: Link, image: bytes) -> None:
    replica.greet()
    assert [type(each) for each in replica.ask(m.AppendImages("a.db", [image]))] == [m.Rejected]
    assert isinstance(replica.greet(), m.Welcome)


@pytest.mark.parametrize("path", ["/etc/passwd", "{spool}/../id", "{spool}/missing", "{spool}/empty"])
def test_spooled_images_come_from_the_spool_directory_only(replica: Link, path: str) -> None:
    spool = replica.mount.data_dir.path / "spool"
    (spool / "empty").write_bytes(b"")
    replica.greet()
    answers = replica.ask(m.AppendSpooledImage("a.db", path.format(spool=spool)))
    assert [type(each) for each in answers] == [m.Rejected]
    assert isinstance(replica.greet(), m.Welcome)


def test_a_log_that_cannot_take_an_image_is_a_rejection(replica: Link, tmp_path: Path) -> None:
    first, _ = images_of(tmp_path, 2)
    replica.greet()
    replica.disk.failing = "log.append"
    assert [type(each) for each in replica.ask(m.AppendImages("a.db", [first]))] == [m.Rejected]
    replica.disk.failing = ""
    assert replica.ask(m.AppendImages("a.db", [first])) == [m.Appended("a.db", 1)]


def test_it_is_told_when_what_was_applied_is_not_the_state_of_an_image(replica: Link, tmp_path: Path) -> None:
    first, _ = images_of(tmp_path, 2)
    replica.greet()
    replica.ask(m.AppendImages("a.db", [first]))
    assert replica.ask(m.Applied("a.db", 1)) == [m.NotReached("a.db", 1)]
    assert replica.ask(m.Applied("a.db", 0), m.Applied("unknown.db", 5)) == []


def test_images_come_together_and_those_before_one_that_is_refused_stay(replica: Link, tmp_path: Path) -> None:
    first, second = images_of(tmp_path, 2)
    replica.greet()
    (answer,) = replica.ask(m.AppendImages("a.db", [first, second, second, first]))
    assert isinstance(answer, m.Appended)
    assert answer.txid == 2
    assert "does not follow" in answer.reason
    assert replica.mount.database("a.db").logged_txid == 2


def test_a_lost_disk_is_no_rejection(replica: Link, tmp_path: Path) -> None:
    first, _ = images_of(tmp_path, 2)
    replica.greet()
    replica.disk.failing, replica.disk.error = "log.append", DiskLostError("injected")
    with pytest.raises(DiskLostError):
        replica.ask(m.AppendImages("a.db", [first]))
    assert [str(error) for error in replica.mount.stopped] == ["injected"]
    assert replica.received() == []


def test_what_replicas_need_is_noted_and_the_newest_word_counts(link: Link) -> None:
    link.greet()
    assert link.ask(m.KeepLogs({"a.db": [3, 7]}, is_last=False)) == []
    assert link.mount.store.needed == {}
    assert link.ask(m.KeepLogs({"b.db": [1]})) == []
    assert link.mount.store.needed == {"a.db": [3, 7], "b.db": [1]}
    assert link.ask(m.KeepLogs({"a.db": [3, 7]})) == []
    assert link.mount.store.needed == {"a.db": [3, 7]}
    link.ask(m.KeepLogs({}))
    assert link.mount.store.needed == {}


# ---- snapshots ----


def aside_files(link: Link, name: str = "a.db") -> list[str]:
    return sorted(path.name for path in link.mount.store.directory(name).glob("aside-*"))


def test_a_snapshot_is_opened_with_its_files_and_closed(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.greet()
    (opened,) = link.ask(m.OpenSnapshot("a.db"))
    assert isinstance(opened, m.SnapshotOpened)
    database = link.mount.database("a.db")
    assert (opened.name, opened.txid, opened.checksum) == ("a.db", 1, database.checksum)
    assert (opened.page_size, opened.page_n, opened.base_txid) == (PAGE_SIZE, 2, 0)
    assert Path(opened.aside_path).exists()
    assert Path(opened.aside_map_path).stat().st_size == 3
    assert opened.base_path == str(database.base.path)
    assert link.ask(m.CloseSnapshot(opened.snapshot_id), m.CloseSnapshot(999)) == []
    assert aside_files(link) == []


def test_snapshots_have_numbers_of_their_own(link: Link) -> None:
    link.mount.create("a.db")
    link.greet()
    first, second = link.ask(m.OpenSnapshot("a.db"), m.OpenSnapshot("a.db"))
    assert isinstance(first, m.SnapshotOpened)
    assert isinstance(second, m.SnapshotOpened)
    assert first.snapshot_id != second.snapshot_id
    assert len(aside_files(link)) == 4


def test_snapshots_are_closed_with_the_link(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.mount.commit("a.db", fh, 1)
    link.ask(m.OpenSnapshot("a.db"), m.OpenSnapshot("a.db"))
    link.socket.close()
    link.settle()
    assert aside_files(link) == []
    assert not link.mount.database("a.db").base.asides


# ---- broken links ----


def test_a_link_that_ends_is_dropped_and_the_next_one_works(link: Link) -> None:
    link.greet()
    link.socket.close()
    link.settle()
    assert link.mount.operations.node_pid == 0
    link.mount.create("a.db")
    link.attach()
    assert [info.name for info in link.greet().databases] == ["a.db"]


def test_a_new_link_takes_the_place_of_the_old_one(link: Link) -> None:
    link.greet()
    old = link.socket
    link.attach()
    old.settimeout(10)
    assert old.recv(1) == b""
    old.close()
    assert link.mount.operations.node_pid == 0
    link.greet()


def test_what_was_told_on_an_old_link_is_told_again(link: Link) -> None:
    fh = link.mount.create("a.db")
    link.greet()
    link.mount.commit("a.db", fh, 1)
    link.socket.close()
    link.attach()
    link.greet()
    link.mount.commit("a.db", fh, 2)
    assert committed(link.received()) == [("a.db", 2)]


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">I", MESSAGE_BYTES_MAX + 1),
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        encode(m.Appended("a.db", 1)),
        encode(m.SetPrimary("x"))[:-1] + b"\xff",
    ],
)
def test_garbage_on_the_link_ends_it_and_not_the_filesystem(link: Link, garbage: bytes) -> None:
    link.greet()
    link.socket.sendall(garbage)
    assert link.is_closed()
    link.socket.close()
    link.attach()
    link.greet()
