"""Writes to several databases at once, one process each, while readers of others go on.

    writers.py MODE SYNCHRONOUS SECONDS WRITTEN... -- READ...

Prints the transactions per second of all writers together, and 99th percentiles for the databases that nobody writes
to: of a read on an open connection, and of opening one and reading.
"""

import json
import os
import sqlite3
import sys
import time

QUERY = "SELECT count(*) FROM (SELECT id FROM t LIMIT 5)"


def _write(path: str, mode: str, synchronous: str, start: float, end: float) -> dict[str, float]:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    while time.monotonic() < start:
        time.sleep(0.001)
    done = 0
    while time.monotonic() < end:
        connection.execute("INSERT INTO t (body) VALUES (zeroblob(100))")
        done += 1
    return {"tx": done}


def _read(path: str, start: float, end: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"read ms": [], "open ms": []}
    kept = sqlite3.connect(path, isolation_level=None)
    while time.monotonic() < start:
        time.sleep(0.001)
    while time.monotonic() < end:
        began = time.perf_counter()
        kept.execute(QUERY).fetchone()
        read = time.perf_counter()
        # A connection of its own each time: the opens are what a held directory lock would stop.
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(QUERY).fetchone()
        connection.close()
        times["read ms"].append((read - began) * 1000)
        times["open ms"].append((time.perf_counter() - read) * 1000)
        time.sleep(0.002)
    return times


def _p99(results: list[dict[str, list[float]]], what: str) -> float:
    times = sorted(value for result in results for value in result[what])
    return times[int(len(times) * 0.99)] if times else 0.0


def main() -> None:
    """Forks one process per database and adds up what they report."""
    mode, synchronous, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    split = sys.argv.index("--")
    written, read = sys.argv[4:split], sys.argv[split + 1 :]
    for path in read:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
        connection.execute("INSERT INTO t (body) VALUES (zeroblob(100))")
        connection.close()
    start = time.monotonic() + 0.5
    end = start + seconds
    pipes = []
    for index, path in enumerate([*written, *read]):
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            result: object = (
                _write(path, mode, synchronous, start, end) if index < len(written) else _read(path, start, end)
            )
            os.write(write_end, json.dumps(result).encode())
            os._exit(0)
        os.close(write_end)
        pipes.append(os.fdopen(read_end, "rb"))
    results = [json.loads(pipe.read()) for pipe in pipes]
    for _ in results:
        os.wait()
    total = sum(result["tx"] for result in results[: len(written)])
    reads = results[len(written) :]
    p99 = {"read p99 ms": _p99(reads, "read ms"), "open p99 ms": _p99(reads, "open ms")}
    print(json.dumps({"tx/s": total / seconds} | p99))


main()
