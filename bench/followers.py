"""Workloads of a primary with many followers, of a replica that is far behind, and of many databases.

Followers that only read are stood in for by one program that throws away what it is sent: sixteen whole nodes would
measure how two processors are shared.
"""

import time
from functools import partial

from bench.client import Client, run_client
from bench.processes import rss_mib
from bench.replication import CATCH_UP_TIMEOUT_S, await_same_position
from bench.targets import Target
from bench.workload import Round, Workload

FOLLOWERS = 16
DATABASES = 100
BEHIND_TX = 100_000
STALLED_SECONDS = 8.0
"""Longer than a follower that takes nothing is waited for."""


def _followers(mode: str, target: Target, round_: Round) -> dict[str, float]:
    """The time that one commit takes, with one follower and with many."""
    assert target.primary is not None
    found = {}
    for count in (1, FOLLOWERS):
        name = f"followed-{mode}-{count}-{round_.number}.db"
        readers = Client(target, "stream_readers", "127.0.0.1", target.primary.port, count, 0)
        try:
            readers.go()
            path = target.directory / name
            found[f"p50 ms of {count}"] = run_client(target, "timed_inserts", mode, "FULL", round_.seconds, path)[
                "p50 ms"
            ]
        finally:
            readers.end()
    return found | {f"{FOLLOWERS} : 1": found[f"p50 ms of {FOLLOWERS}"] / found["p50 ms of 1"]}


def _stalled(target: Target, round_: Round) -> dict[str, float]:
    """What a follower that never reads costs the primary, while another one reads and an application writes."""
    assert target.primary is not None
    path = target.directory / f"stalled-{round_.number}.db"
    run_client(target, "inserts", path, "WAL", "NORMAL", 0.2)
    before = rss_mib(target.primary)
    readers = Client(target, "stream_readers", "127.0.0.1", target.primary.port, 2, 1)
    try:
        readers.go()
        run_client(target, "inserts", path, "WAL", "NORMAL", STALLED_SECONDS)
        return {"RSS growth MiB": rss_mib(target.primary) - before}
    finally:
        readers.end()


def _catch_up(target: Target, round_: Round) -> dict[str, float]:
    """A replica that missed many small transactions, from its start to the primary's position."""
    assert target.primary is not None
    assert target.replica is not None
    name = f"behind-{round_.number}.db"
    run_client(target, "inserts", target.directory / name, "WAL", "NORMAL", 0, 100)
    await_same_position(target, name)
    target.replica.stop()
    path = target.directory / name
    done = 0.0
    while done < BEHIND_TX:
        done += run_client(target, "inserts", path, "WAL", "OFF", 5)["tx"]
    started = time.monotonic()
    target.replica.start()
    await_same_position(target, name)
    elapsed = time.monotonic() - started
    assert elapsed < CATCH_UP_TIMEOUT_S
    return {"tx/s": done / elapsed, "transactions": done}


def _in_turn(target: Target, round_: Round) -> dict[str, float]:
    """One writer that goes from database to database against one that stays."""
    paths = [target.directory / f"turn-{round_.number}-{index}.db" for index in range(DATABASES)]
    one = run_client(target, "timed_inserts", "WAL", "FULL", round_.seconds, paths[0])["tx/s"]
    many = run_client(target, "timed_inserts", "WAL", "FULL", round_.seconds, *paths)["tx/s"]
    return {"tx/s of 1": one, f"tx/s of {DATABASES}": many, f"{DATABASES} : 1": many / one}


WORKLOADS = [
    Workload(name="commits beside followers DELETE", measure=partial(_followers, "DELETE"), bare=False),
    Workload(name="commits beside followers WAL", measure=partial(_followers, "WAL"), bare=False),
    Workload(name="a follower that never reads", measure=_stalled, bare=False, rounds_max=1),
    Workload(name="catching up", measure=_catch_up, replica=True, bare=False, rounds_max=1),
    Workload(name="databases in turn", measure=_in_turn),
]
