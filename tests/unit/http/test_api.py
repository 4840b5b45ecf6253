"""What each request answers, held against the answers that the Go LiteFS gave."""

import base64
import http.client
import json
import re
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from litefs.formats.stream import encode_position_map
from litefs.http.service import WORKER_THREADS
from tests.unit.http.fake_node import NODE_ID, FakeNode
from tests.unit.http.serving import Served, pos

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "http"
PAIRS: dict[str, dict[str, Any]] = {
    pair["label"]: pair for pair in json.loads((GOLDEN / "pairs.json").read_text())["pairs"]
}

SAME_ON_THE_PRIMARY = (
    "import without name",
    "import of a file that is not SQLite",
    "import of an empty body",
    "import of a cut file",
    "export without name",
    "export of an unknown database",
    "unknown path",
    "root path",
    "wrong method POST /info",
    "wrong method POST /export",
    "wrong method GET /import",
    "wrong method GET /halt",
    "wrong method GET /handoff",
    "wrong method GET /promote",
    "wrong method GET /stream",
    "wrong method GET /tx",
    "wrong method POST /events",
    "wrong method HEAD /info",
    "promote on the primary",
    "handoff without node id",
    "handoff with a bad node id",
    "handoff to a node that has no stream (static lease)",
    "stream to self",
    "stream with an empty body",
)
SAME_ON_A_REPLICA = (
    "import on a replica",
    "promote on a non-candidate",
    "handoff on a replica",
    "stream from a replica",
)


def _check(served: Served, label: str) -> None:
    """Sends the request that Go was sent, and compares status, kind and body of the answer."""
    request, expected = PAIRS[label]["request"], PAIRS[label]["response"]
    fields = {name.lower(): value for name, value in request["headers"]}
    theirs = {name.lower(): value for name, value in expected["headers"]}
    method = request.get("method") or fields[":method"]
    path = request.get("path") or fields[":path"]
    own_id = theirs["litefs-id"]
    headers = (
        {"Litefs-Id": f"{NODE_ID:016X}" if fields["litefs-id"] == own_id else fields["litefs-id"]}
        if ("litefs-id" in fields)
        else {}
    )
    body = (
        base64.b64decode(request["body_base64"])
        if "body_base64" in request
        else bytes.fromhex(request["body_hex"])
        if "body_hex" in request
        else request.get("body", "").encode() or (bytes(int(fields.get("content-length", 0))) or None)
    )
    answer = served.request(method, path, body, headers)
    assert answer.status == int(expected.get("status") or theirs[":status"])
    assert answer.body == expected.get("body", "").encode()
    assert answer.headers.get("content-type") == theirs.get("content-type")
    assert re.fullmatch("[0-9A-F]{16}", answer.headers["litefs-id"])
    assert re.fullmatch("LFSC[0-9A-F]{16}", answer.headers["litefs-cluster-id"])
    assert answer.headers.get("x-content-type-options") == theirs.get("x-content-type-options")


@pytest.mark.parametrize("label", SAME_ON_THE_PRIMARY)
def test_the_primary_answers_as_go_does(calm: Served, label: str) -> None:
    _check(calm, label)


def test_an_export_of_a_database_that_was_never_written_is_empty(node: FakeNode, served: Served) -> None:
    node.create("bad.db")
    node.publish("bad.db")
    _check(served, "export of a database that exists but was never written")


@pytest.mark.parametrize("label", SAME_ON_A_REPLICA)
def test_a_replica_answers_as_go_does(replica: Served, label: str) -> None:
    _check(replica, label)


@pytest.mark.parametrize(("method", "path"), [("POST", "/halt"), ("DELETE", "/halt"), ("POST", "/tx")])
def test_what_is_not_built_says_so(calm: Served, method: str, path: str) -> None:
    answer = calm.request(method, path + "?name=a.db&id=1")
    assert (answer.status, answer.body) == (501, f"{path} is not supported by this version\n".encode())


def test_a_candidate_is_promoted(node: FakeNode, served: Served) -> None:
    node.standing = replace(node.standing, is_primary=False, candidate=True)
    assert served.request("POST", "/promote").status == 200
    assert node.standing.is_primary


def test_the_lease_is_handed_to_the_node_that_is_named(node: FakeNode, served: Served) -> None:
    node.connected.add(0xAB)
    assert served.request("POST", "/handoff?nodeID=00000000000000AB").status == 200
    assert node.handed_to == [0xAB]


def test_the_lease_is_handed_to_the_freshest_within_the_time_that_is_asked_for(node: FakeNode, served: Served) -> None:
    node.connected |= {0xAB, 0xCD}
    answer = served.request("POST", "/handoff?nodeID=freshest&timeout=2.5")
    assert answer.status == 200
    assert json.loads(answer.body) == {"was_primary": True, "node_id": "00000000000000CD"}
    assert node.handoff_timeouts_s == [2.5]
    assert node.standing.candidate


@pytest.mark.parametrize("is_primary", [True, False])
def test_who_leaves_is_no_candidate_whether_or_not_somebody_takes_the_lease(
    node: FakeNode, served: Served, is_primary: bool
) -> None:
    node.standing = replace(node.standing, is_primary=is_primary, candidate=True)
    answer = served.request("POST", "/handoff?nodeID=freshest&leave=true")
    assert json.loads(answer.body) == {"was_primary": is_primary, "node_id": ""}
    assert not node.standing.candidate


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon", "601"])
def test_a_time_that_is_none_is_refused_and_nobody_leaves(node: FakeNode, served: Served, timeout: str) -> None:
    node.standing = replace(node.standing, candidate=True)
    answer = served.request("POST", f"/handoff?nodeID=freshest&leave=true&timeout={timeout}")
    assert (answer.status, answer.body) == (400, b"timeout: expected seconds, at most 600\n")
    assert node.standing.candidate
    assert not node.handoff_timeouts_s


def test_info_is_go_s_to_the_byte(node: FakeNode, served: Served) -> None:
    answer = served.request("GET", "/info")
    theirs = PAIRS["info, no cluster id yet or fresh"]["response"]["body"]
    ours = (
        answer.body.decode()
        .replace(str(node.data_dir), "/data")
        .replace("LFSC0123456789ABCDEF", "LFSC02BC57501F18191F")
    )
    assert ours == theirs
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_unknown_cluster_id_is_left_out(node: FakeNode, served: Served) -> None:
    node.standing = replace(node.standing, cluster_id="")
    answer = served.request("GET", "/info")
    assert "clusterID" not in json.loads(answer.body)
    assert "litefs-cluster-id" not in answer.headers


def test_debug_vars_are_go_s_without_the_locks(node: FakeNode, served: Served) -> None:
    node.create("one.db")
    committed = node.commit("one.db", 1)
    answer = served.request("GET", "/debug/vars")
    theirs = PAIRS["debug/vars: key store only"]["response"]["json_store"]
    ours = json.loads(answer.body)["store"]
    assert set(ours) == set(theirs)
    assert set(ours["dbs"]["one.db"]) == set(theirs["dbs"]["one.db"]) - {"locks"}
    assert ours["dbs"]["one.db"] == {
        "name": "one.db", "txid": f"{committed.txid:016x}", "checksum": f"{committed.checksum:016x}",
    }  # fmt: skip
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert "litefs-id" not in answer.headers


def test_readiness_follows_the_node(node: FakeNode, served: Served) -> None:
    assert served.request("GET", "/readyz").status == 200
    node.standing = replace(node.standing, ready=False)
    assert served.request("GET", "/readyz").status == 503
    assert served.request("GET", "/healthz").status == 200


def test_metrics_have_the_names_types_and_labels_of_go(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    first = node.commit("a.db", 1)
    with served.follow({"a.db": first}) as stream:
        stream.until_ready()
        node.commit("a.db", 1)
        node.commit("a.db", 1)
        stream.image()
        stream.image()
        answer = served.request("GET", "/metrics")
    text = answer.body.decode()
    golden = json.loads((GOLDEN / "metrics.json").read_text())
    assert answer.headers["content-type"] == golden["content_type"]
    assert "litefs-id" not in answer.headers
    ours = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
    helps = dict(re.findall(r"(?m)^# HELP (\S+) (.*)$", text))
    from_the_filesystem_process = {"database", "journal", "wal", "shm"}
    for name, theirs in golden["metrics"].items():
        if any(name == f"litefs_db_{kind}_write_count" for kind in from_the_filesystem_process):
            continue
        if name == "litefs_db_lag_seconds":  # of a replica only, and not measured per database
            continue
        assert (ours[name], helps[name]) == (theirs["type"], theirs["help"])
    assert 'litefs_db_txid{db="a.db"} 3.0\n' in text
    assert 'litefs_db_commit_count{db="a.db"} 3.0\n' in text
    assert 'litefs_http_frame_send_count{db="a.db",type="ltx"} 2.0\n' in text
    assert 'litefs_db_ltx_count{db="a.db"} 3.0\n' in text
    assert re.search(r'(?m)^litefs_db_ltx_bytes\{db="a.db"\} [1-9]', text)
    assert "litefs_http_stream_count 1.0\n" in text
    assert "process_resident_memory_bytes" in text


def test_metrics_of_ours_say_what_the_filesystem_process_counted(node: FakeNode, served: Served) -> None:
    node.standing = replace(node.standing, lease_remaining_s=7.5)
    node.create("a.db")
    node.commit("a.db", 1)
    lines = served.request("GET", "/metrics").body.decode().splitlines()
    for line in (
        'litefs_refused_count{reason="not-primary"} 2.0',
        'litefs_db_commit_seconds_bucket{db="a.db",le="0.0002"} 0.0',
        'litefs_db_commit_seconds_bucket{db="a.db",le="0.0005"} 3.0',
        'litefs_db_commit_seconds_bucket{db="a.db",le="+Inf"} 3.0',
        'litefs_db_commit_seconds_sum{db="a.db"} 0.0015',
        'litefs_db_commit_seconds_count{db="a.db"} 3.0',
        'litefs_lease_event_count{event="promotions"} 1.0',
        'litefs_role{role="primary"} 1.0',
        'litefs_role{role="replica"} 0.0',
        "litefs_lease_remaining_seconds 7.5",
    ):
        assert line in lines


def test_every_metric_is_documented_and_nothing_else_is(node: FakeNode, served: Served) -> None:
    node.standing = replace(node.standing, lease_remaining_s=7.5)
    node.create("a.db")
    first = node.commit("a.db", 1)
    with served.follow({"a.db": first}) as stream:
        stream.until_ready()
        node.commit("a.db", 1)
        stream.image()
        text = served.request("GET", "/metrics").body.decode()
    reported = set(re.findall(r"(?m)^# TYPE (litefs_\w+)", text))
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"(?m)^\| `(litefs_\w+)", page)) == reported


def test_a_database_s_name_cannot_forge_metrics(node: FakeNode, served: Served) -> None:
    name = 'x"}_count_total 1\n# TYPE litefs_x_total '
    node.create(name)
    node.commit(name, 1)
    text = served.request("GET", "/metrics").body.decode()
    assert "\n# TYPE litefs_x" not in text


def test_exports_a_database_byte_for_byte(node: FakeNode, served: Served) -> None:
    database = node.create("a.db", page_size=4096)
    here = node.commit("a.db", *range(1, 300))
    answer = served.request("GET", "/export?name=a.db")
    assert answer.body == database.content
    assert answer.headers["content-length"] == str(300 * 4096 - 4096)
    assert answer.headers["litefs-position"] == str(here)
    served.stop()
    assert not node.open_snapshots


def test_an_export_of_a_dropped_database_finds_nothing(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    node.drop("a.db")
    assert served.request("GET", "/export?name=a.db").status == 404


def test_a_failed_export_ends_short_of_its_length(node: FakeNode, served: Served) -> None:
    database = node.create("a.db")
    node.commit("a.db", 1, 2)
    database.checksum ^= 1
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        served.request("GET", "/export?name=a.db")


NAMES_REFUSED = [
    "../x",
    "..",
    ".",
    "a/b",
    "/etc/passwd",
    "a.db-wal",
    "a.db-journal",
    "a.db-shm",
    "a.db-pos",
    "a.db-lock",
    "a.db-mj0123456789"[:-1],
    ".primary",
    ".lag",
    "x" * 300,
]


@pytest.mark.parametrize("name", NAMES_REFUSED)
@pytest.mark.parametrize("method_and_path", ["POST /import", "GET /export"])
def test_a_name_that_is_no_database_s_is_refused(calm: Served, name: str, method_and_path: str) -> None:
    method, path = method_and_path.split()
    directory = calm.node.data_dir
    before = sorted(directory.rglob("*"))
    answer = calm.request(
        method, f"{path}?name={name.replace('/', '%2F')}", b"SQLite format 3\0" if method == "POST" else None
    )
    assert answer.status == 400
    assert sorted(directory.rglob("*")) == before


def _sqlite_file(path: Path, *, page_size: int = 4096, rows: int = 2000, wal: bool = False) -> bytes:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={page_size}")
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t(x)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO t VALUES(?)", ((f"{i:0200d}",) for i in range(rows)))
        connection.execute("COMMIT")
    finally:
        connection.close()
    return path.read_bytes()


def _as_imported(content: bytes) -> bytes:
    return content[:24] + bytes(4) + content[28:40] + bytes(4) + content[44:]


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
@pytest.mark.parametrize("wal", [False, True])
def test_imports_a_database_and_exports_it_again(tmp_path: Path, served: Served, page_size: int, wal: bool) -> None:
    content = _sqlite_file(
        tmp_path / "source.db", page_size=page_size, rows=20_000 if page_size > 512 else 500, wal=wal
    )
    assert served.request("POST", "/import?name=new.db", content).status == 200
    assert served.request("GET", "/export?name=new.db").body == _as_imported(content)


def test_an_export_can_be_imported_again_though_its_page_count_is_stale(tmp_path: Path, served: Served) -> None:
    content = _sqlite_file(tmp_path / "source.db")
    served.request("POST", "/import?name=a.db", content)
    exported = served.request("GET", "/export?name=a.db").body
    assert served.request("POST", "/import?name=b.db", exported).status == 200
    assert served.request("GET", "/export?name=b.db").body == exported


def test_a_stale_page_count_needs_the_length_of_the_body(tmp_path: Path, served: Served) -> None:
    content = _as_imported(_sqlite_file(tmp_path / "source.db", rows=1))
    with served.connect() as connection:
        head = b"POST /import?name=a.db HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"%x\r\n" % len(content) + content + b"\r\n0\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 500")
    assert b"Content-Length is required" in answer


def test_bytes_behind_the_last_page_are_ignored(tmp_path: Path, served: Served) -> None:
    content = _sqlite_file(tmp_path / "source.db")
    assert served.request("POST", "/import?name=a.db", content + b"tail" * 999).status == 200
    assert served.request("GET", "/export?name=a.db").body == _as_imported(content)


def test_an_import_over_a_database_is_its_next_transaction(tmp_path: Path, node: FakeNode, served: Served) -> None:
    node.create("a.db")
    first = node.commit("a.db", 1)
    content = _sqlite_file(tmp_path / "source.db")
    with served.follow({"a.db": first}) as stream:
        stream.until_ready()
        assert served.request("POST", "/import?name=a.db", content).status == 200
        image = stream.image()
    assert (image.header.min_txid, image.header.max_txid) == (1, 2)
    assert b"".join(image.pages[pgno] for pgno in sorted(image.pages)) == _as_imported(content)


@pytest.mark.parametrize("cut", [50, 99, 100, 4095, 4096, 5000])
def test_a_cut_file_is_not_imported_and_leaves_nothing_behind(
    tmp_path: Path, node: FakeNode, served: Served, cut: int
) -> None:
    content = _sqlite_file(tmp_path / "source.db")
    assert served.request("POST", "/import?name=a.db", content[:cut]).status == 500
    assert "a.db" not in node.all
    assert not list(node.data_dir.rglob("incoming-*"))


def test_a_client_that_leaves_during_an_import_leaves_nothing_behind(
    tmp_path: Path, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    content = _sqlite_file(tmp_path / "source.db", rows=20_000)
    with served.connect() as connection:
        head = f"POST /import?name=a.db HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[: len(content) // 2])
    while served.request("POST", "/import?name=a.db", content).status == 409:
        pass  # the server has not noticed yet
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert served.request("GET", "/export?name=a.db").body == _as_imported(content)


def test_imports_that_wait_for_applications_hold_up_nobody_else(tmp_path: Path, node: FakeNode, served: Served) -> None:
    content = _sqlite_file(tmp_path / "source.db")
    node.may_import.clear()
    with ThreadPoolExecutor(WORKER_THREADS) as pool:
        imports = [pool.submit(served.request, "POST", f"/import?name={n}.db", content) for n in range(WORKER_THREADS)]
        while len(node.importing) < WORKER_THREADS:
            time.sleep(0.001)
        assert served.request("GET", "/metrics").status == 200  # takes one of the threads that streams take
        node.may_import.set()
        assert [each.result().status for each in imports] == [200] * WORKER_THREADS


def test_events_begin_with_the_role_and_tell_every_transaction(node: FakeNode, served: Served) -> None:
    node.create("a.db")
    node.commit("a.db", 1)
    with served.connect() as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        lines = connection.makefile("rb")
        while lines.readline() != b"\r\n":
            pass
        assert _chunk(lines) == b'{"type":"init","data":{"isPrimary":true}}\n'
        node.commit("a.db", 1, publish=False)
        node.commit("a.db", 1, 2, publish=False)
        last = node.commit("a.db", 1)
        told = [json.loads(_chunk(lines)) for _ in range(3)]
        node.standing = replace(node.standing, is_primary=False, primary_hostname="other")
        assert json.loads(_chunk(lines)) == {"type": "primaryChange", "data": {"isPrimary": False, "hostname": "other"}}
    assert [(event["type"], event["db"], event["data"]["txID"]) for event in told] == [
        ("tx", "a.db", f"{txid:016x}") for txid in (2, 3, 4)
    ]
    assert told[-1]["data"] == {
        "txID": "0000000000000004",
        "postApplyChecksum": f"{last.checksum:016x}",
        "pageSize": 512,
        "commit": 2,
        "timestamp": "2023-11-14T22:13:20.19Z",
    }
    assert [event["data"]["commit"] for event in told] == [1, 2, 2]


def _chunk(lines: Any) -> bytes:
    size = int(lines.readline(), 16)
    data = lines.read(size)
    assert lines.readline() == b"\r\n"
    return bytes(data)


def test_a_position_map_that_is_cut_or_garbage_is_refused(served: Served) -> None:
    whole = encode_position_map({"a.db": pos(1, 1 << 63), "b.db": pos(2, 1 << 63)})
    for cut in range(1, len(whole)):
        assert served.request("POST", "/stream", whole[:cut]).status == 400
    for garbage in (whole + b"x", b"\xff" * 100, b"\0\0\0\1\0\0\0\4../x" + bytes(16), b"\0\0\0\1\xff\xff\xff\xff"):
        assert served.request("POST", "/stream", garbage).status == 400


def test_an_oversized_position_map_is_refused_before_it_is_read(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413")
