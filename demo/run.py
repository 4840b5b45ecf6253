"""Shows LiteFS at work: two nodes on this machine, driven by the ordinary sqlite3 program. Takes under a minute.

    make demo

Every step says what it does and checks what it claims; the exit code is 1 when one of them does not hold. Nothing
is left behind: the nodes stop and the mounts go, also on Ctrl-C.
"""

import os
import signal
import sys
import time

from demo.steps import ClaimFailedError, expect, perform, position, say, sqlite
from tests.support import children
from tests.support.filesystem_node import REPOSITORY
from tests.support.litefs_node import Pair, own_command

DEMO_TIMEOUT_S = 110.0
CATCH_UP_TIMEOUT_S = 10.0
RECOVERY_TIMEOUT_S = 10.0


def await_same_position(pair: Pair, database: str) -> None:
    """Waits until both nodes show the same position, prints it, or raises."""
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
    primary = replica = ""
    while time.monotonic() < deadline:
        primary, replica = position(pair.primary, database), position(pair.replica, database)
        if primary and primary == replica:
            print(f"  primary$ cat {database}-pos\n    {primary}\n  replica$ cat {database}-pos\n    {replica}")
            expect("both nodes are at the same transaction, with the same checksum of the whole database", True)
            return
        time.sleep(0.01)
    raise ClaimFailedError(f"{database}: the primary is at {primary}, the replica at {replica}")


def replicate(pair: Pair, journal_mode: str) -> None:
    """Writes on the primary in one journal mode and reads on the replica."""
    database = f"{journal_mode}.db"
    say(f"The unmodified sqlite3 program writes on the primary, journal_mode={journal_mode}.")
    script = (
        f"PRAGMA journal_mode = {journal_mode};\n"
        "CREATE TABLE greeting (text);\n"
        "INSERT INTO greeting VALUES ('hello from the primary');"
    )
    expect(f"SQLite answers '{journal_mode}'", journal_mode in sqlite(pair.primary, database, script))
    await_same_position(pair, database)
    seen = sqlite(pair.replica, database, "SELECT text FROM greeting;")
    expect("the row is on the replica", seen == "hello from the primary", seen)


def refuse_write(pair: Pair, database: str) -> None:
    """Tries to write on the replica."""
    say(f"The replica refuses a write to {database} with SQLite's own words.")
    seen = sqlite(pair.replica, database, "INSERT INTO greeting VALUES ('hello from the replica');")
    expect("attempt to write a readonly database", "attempt to write a readonly database" in seen, seen)
    count = sqlite(pair.replica, database, "SELECT count(*) FROM greeting;")
    expect("and it goes on reading", count == "1", count)


def survive_kill(pair: Pair, database: str) -> None:
    """Kills the primary's filesystem process in the middle of its life."""
    say("SIGKILL of the process that serves the primary's mount.")
    before = position(pair.primary, database)
    os.kill(pair.primary.child_pid("filesystem_process"), signal.SIGKILL)
    started = time.monotonic()
    deadline = started + RECOVERY_TIMEOUT_S
    count = ""
    while time.monotonic() < deadline:
        done = children.run(
            ["sqlite3", "-batch", pair.primary.mount_dir / database],
            free=pair.primary.free,
            stdin="INSERT INTO greeting VALUES ('written after the kill');\nSELECT count(*) FROM greeting;\n",
        )
        if done.code == 0 and not done.err:
            count = done.out.strip()
            break
        time.sleep(0.02)
    took = time.monotonic() - started
    expect(f"the mount is back by itself and takes writes after {took:.2f} s", count != "", "no write succeeded")
    expect("nothing was lost: the row from before and the new one are there", count == "2", count)
    after = position(pair.primary, database)
    expect("the position went on from where it was", after > before, f"{before} -> {after}")
    await_same_position(pair, database)


def show_log(pair: Pair) -> None:
    """Lists and verifies the transaction log of the primary."""
    say("The log: every transaction is an LTX image with a checksum over the whole database.")
    environment = {"PYTHONPATH": str(REPOSITORY / "sidecar")}
    for command in ("list", "verify"):
        arguments = [*own_command(), "ltx", command, "-data", str(pair.primary.data_dir)]
        print(f"  $ litefs ltx {command} -data {pair.primary.data_dir.name}")
        done = children.run(arguments, free=pair.primary.free, environment=environment)
        print("    " + (done.out + done.err).strip().replace("\n", "\n    "), flush=True)
        expect(f"litefs ltx {command} succeeds", done.code == 0, done.err)


def show(pair: Pair) -> None:
    """Shows everything, on two nodes that do not run yet."""
    say("Two nodes on this machine, each with its own mount, data directory and litefs.yml (static lease).")
    print("    " + pair.primary.config_path.read_text().strip().replace("\n", "\n    "))
    pair.start()
    expect("both mounts are there", pair.primary.is_alive and pair.replica.is_alive)
    for journal_mode in ("delete", "wal"):
        replicate(pair, journal_mode)
        refuse_write(pair, f"{journal_mode}.db")
    survive_kill(pair, "wal.db")
    show_log(pair)


if __name__ == "__main__":
    sys.exit(perform(Pair, show, timeout_s=DEMO_TIMEOUT_S))
