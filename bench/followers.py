"""Workloads of a primary with many followers, of a replica that is far behind, and of many databases.

Followers that only read are stood in for by one program that throws away what it is sent: sixteen whole nodes would
measure how two processors are shared.
"""

import time
from functools import partial

from bench.client import Client, run_client
from bench.processes import rss_mib
from bench.replication import CATCH_UP_TIMEOUT_S, await_same_position, visibility
from bench.targets import Target
from bench.workload import Round, Workload

FOLLOWERS = 16
DATABASES = 100
BEHIND_TX = {"WAL": 100_000, "DELETE": 20_000}
"""What the replica missed; in DELETE mode writing so many takes longest."""

BALLAST_ROWS = 200_000
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
    """What a follower that never reads costs the primary, against one that reads, while an application writes."""
    assert target.primary is not None
    path = target.directory / f"stalled-{round_.number}.db"
    rss: list[float] = []
    for stalled in (0, 1):
        readers = Client(target, "stream_readers", "127.0.0.1", target.primary.port, 2, stalled)
        try:
            readers.go()
            run_client(target, "inserts", path, "WAL", "NORMAL", STALLED_SECONDS)
            rss.append(rss_mib(target.primary))
        finally:
            readers.end()
    return {"RSS growth MiB": rss[1] - rss[0], "RSS MiB": rss[1]}


def _visible_beside_stalled(mode: str, target: Target, round_: Round) -> dict[str, float]:
    """When a commit is seen on a replica while another follower has not taken for seconds what it was sent."""
    assert target.primary is not None
    readers = Client(target, "stream_readers", "127.0.0.1", target.primary.port, 1, 1)
    try:
        # More than the kernel keeps for it, in one piece: from here on every write to that follower waits.
        ballast = f"ballast-{mode}-{round_.number}.db"
        run_client(target, "inserts", target.directory / ballast, "WAL", "NORMAL", 0, BALLAST_ROWS)
        await_same_position(target, ballast)
        return visibility(mode, target, round_)
    finally:
        readers.end()


def _catch_up(mode: str, target: Target, round_: Round) -> dict[str, float]:
    """A replica that missed many small transactions, from its start to the primary's position."""
    assert target.primary is not None
    assert target.replica is not None
    name = f"behind-{mode}-{round_.number}.db"
    run_client(target, "inserts", target.directory / name, mode, "NORMAL", 0, 100)
    await_same_position(target, name)
    target.replica.stop()
    path = target.directory / name
    done = 0.0
    while done < BEHIND_TX[mode]:
        done += run_client(target, "inserts", path, mode, "OFF", 2)["tx"]
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
    Workload(
        name="visible beside a stalled follower DELETE",
        measure=partial(_visible_beside_stalled, "DELETE"),
        replica=True,
        bare=False,
    ),
    Workload(
        name="visible beside a stalled follower WAL",
        measure=partial(_visible_beside_stalled, "WAL"),
        replica=True,
        bare=False,
    ),
    Workload(name="catching up DELETE", measure=partial(_catch_up, "DELETE"), replica=True, bare=False, rounds_max=1),
    Workload(name="catching up WAL", measure=partial(_catch_up, "WAL"), replica=True, bare=False, rounds_max=1),
    Workload(name="databases in turn", measure=_in_turn),
]
