"""Files of the mount that are no databases: positions, `.primary`, `.lag`, the listing."""

import re

from tests.support import children
from tests.support.judge import Judge, Node
from tests.support.scenario import Session


def _read(judge: Judge, name: str) -> str:
    return children.checked(["cat", judge.node.mount_dir / name], free=judge.node.free)


def _listing(node: Node) -> list[str]:
    return children.checked(["ls", "-a", "-U", node.mount_dir], free=node.free).splitlines()


def test_the_position_changes_with_each_commit_also_for_an_open_descriptor(own_judge: Judge) -> None:
    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("CREATE TABLE t (n)")
        path = f"{session.path()}-pos"
        script = (
            "import os, sqlite3, sys\n"
            "position = os.open(sys.argv[1], os.O_RDONLY)\n"
            "seen = []\n"
            "connection = sqlite3.connect(sys.argv[2], isolation_level=None)\n"
            "for row in range(3):\n"
            "    seen.append(os.pread(position, 100, 0).decode())\n"
            "    connection.execute('INSERT INTO t VALUES (?)', [row])\n"
            "seen.append(os.pread(position, 100, 0).decode())\n"
            "print(''.join(seen), end='')\n"
        )
        text = session.run("python3", "-c", script, path, session.path())
        lines = text.splitlines()
        assert all(re.fullmatch(r"[0-9a-f]{16}/[0-9a-f]{16}", line) for line in lines), text
        assert len(set(lines)) == 4
        txids = [int(line.partition("/")[0], 16) for line in lines]
        assert txids == list(range(txids[0], txids[0] + 4))
        assert session.run("stat", "-c", "%s", path).strip() == "34"

    own_judge.check(own_judge.play(scenario, own_judge.node))


def test_a_primary_lists_databases_positions_and_side_files(own_judge: Judge) -> None:
    assert [name for name in _listing(own_judge.node) if name not in (".", "..")] == [".lag"]

    def scenario(session: Session) -> None:
        connection = session.connect()
        connection.sql("PRAGMA journal_mode = WAL")
        connection.sql("CREATE TABLE t (n)")
        name = session.path().name
        expected = [".lag", name, f"{name}-pos", f"{name}-shm", f"{name}-wal"]
        assert sorted(each for each in _listing(own_judge.node) if each not in (".", "..")) == expected

    own_judge.check(own_judge.play(scenario, own_judge.node))


def test_a_listing_that_the_kernel_keeps_follows_what_comes_and_goes(own_judge: Judge) -> None:
    def scenario(session: Session) -> None:
        session.connect().sql("CREATE TABLE t (n)")
        name = session.path().name
        for _ in range(3):
            assert f"{name}-x" not in _listing(own_judge.node)
            session.run("touch", f"{session.path()}-x")
            assert f"{name}-x" in _listing(own_judge.node)
            session.run("rm", f"{session.path()}-x")

    own_judge.check(own_judge.play(scenario, own_judge.node))


def test_a_primary_has_no_lag_and_no_primary(own_judge: Judge) -> None:
    assert _read(own_judge, ".lag") == "+000000000\n"
    missing = children.run(["cat", own_judge.node.mount_dir / ".primary"], free=own_judge.node.free)
    assert missing.code != 0
    assert "No such file" in missing.err


def test_special_files_refuse_writes_and_directories_are_refused(own_judge: Judge) -> None:
    def scenario(session: Session) -> None:
        session.connect().sql("CREATE TABLE t (n)")
        for command in (
            f"echo x > '{session.path()}-pos'",
            f"echo x > '{session.place.mount_dir}/.lag'",
            f"rm '{session.path()}-pos'",
            f"mkdir '{session.place.mount_dir}/directory'",
            f"ln -s target '{session.place.mount_dir}/link'",
            f"touch '{session.path()}-new-pos'",
        ):
            assert session.run("sh", "-c", f"({command}) 2>/dev/null; echo $?").strip() != "0", command
        # A refused create must not teach the kernel that this mount has no create at all.
        session.connect("second").sql("CREATE TABLE t (n)")

    own_judge.check(own_judge.play(scenario, own_judge.node))
