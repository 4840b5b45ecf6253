"""What runs in the pods of the tests: a small web application that keeps its rows in SQLite, and clients of it.

Knows nothing of LiteFS and needs nothing but the standard library: it is put into pods by a ConfigMap.

    serve DATABASE PORT       GET /count: rows; GET /texts: them, one a line; POST /insert: the body becomes a row;
                              prints when it is told to end
    post NAME URL...          POSTs numbered rows to each URL, each on a new connection, and prints a JSON line for each
    insert DATABASE NAME N    inserts N numbered rows, one every 20 ms, and prints when each was committed
    watch DATABASE NAME N     waits for these rows, and prints when each was there
"""

import http.client
import json
import os
import signal
import sqlite3
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAUSE_S = 0.02
WATCH_PAUSE_S = 0.0002
BUSY_S = 5.0
REQUEST_S = 5.0
RUN_DOWN_S = float(os.environ.get("RUN_DOWN_S", "0"))
"""How long the server goes on serving after SIGTERM, as one does that lets its clients finish."""


def connect(database: str, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Rows are committed one by one."""
    return sqlite3.connect(database, timeout=busy_s, isolation_level=None)


class Handler(BaseHTTPRequestHandler):
    """Opens the database for every request, as an application does that outlives its file system."""

    database = ""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answers rows, or their number."""
        query = "select count(*) from t" if self.path == "/count" else "select text from t order by rowid"
        self._answer(lambda connection: "\n".join(str(row[0]) for row in connection.execute(query)))

    def do_POST(self) -> None:
        """Inserts the body, and answers who did when it is committed."""
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()

        def insert(connection: sqlite3.Connection) -> str:
            connection.execute("insert into t values (?, ?)", (text, time.monotonic_ns()))
            return os.uname().nodename

        self._answer(insert)

    def _answer(self, work: Callable[[sqlite3.Connection], str]) -> None:
        try:
            connection = connect(self.database)
            try:
                code, text = 200, work(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            code, text = 503, str(error)
        body = f"{text}\n".encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its base calls it so
        """Is silent: the log is for what tests read."""


def serve(database: str, port: str) -> None:
    """Says first how the first open went: nothing here tries again."""
    try:
        connection = connect(database)
        connection.execute("create table if not exists t(text text, at_ns integer)")
        connection.close()
        print("first open: ok", flush=True)
    except sqlite3.Error as error:
        print(f"first open: {error}", flush=True)
    Handler.database = database
    server = ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
    server.daemon_threads = True

    def run_down(*_: object) -> None:
        print(f"told to end: {time.monotonic()}", flush=True)
        threading.Timer(RUN_DOWN_S, server.shutdown).start()

    signal.signal(signal.SIGTERM, run_down)
    server.serve_forever(poll_interval=0.05)


def post(name: str, *urls: str) -> None:
    """Prints when each answer came, the row, the code and the answer; code 0 for what is no answer."""
    for index, url in enumerate(urls[1:], start=1):
        threading.Thread(target=_post_to, args=(f"{name}.{index}", url), daemon=True).start()
    _post_to(f"{name}.0", urls[0])


def _post_to(name: str, url: str) -> None:
    number = 0
    while True:
        number += 1
        text = f"{name} {number}"
        try:
            code, answer = _post_once(url, text)
        except OSError as error:
            code, answer = 0, str(error)
        except http.client.HTTPException as error:
            code, answer = 0, repr(error)
        line = {"at_s": time.monotonic(), "url": url, "text": text, "code": code, "answer": answer}
        print(json.dumps(line), flush=True)
        time.sleep(PAUSE_S)


def _post_once(url: str, text: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=REQUEST_S)
    try:
        connection.request("POST", "/insert", body=text.encode())
        response = connection.getresponse()
        return response.status, response.read().decode().strip()
    finally:
        connection.close()


def insert(database: str, prefix: str, count: str) -> None:
    """Prints when each commit had returned, in nanoseconds of the machine's clock, by row."""
    connection = connect(database)
    committed = {}
    for number in range(int(count)):
        text = f"{prefix} {number}"
        connection.execute("insert into t values (?, ?)", (text, time.monotonic_ns()))
        committed[text] = time.monotonic_ns()
        time.sleep(PAUSE_S)
    print(json.dumps(committed), flush=True)


def watch(database: str, prefix: str, count: str) -> None:
    """Prints when each row was there, in nanoseconds of the machine's clock, by row; says first that it looks."""
    connection = connect(database)
    (last,) = connection.execute("select coalesce(max(rowid), 0) from t").fetchone()
    connection.close()
    connection = connect(database, busy_s=0)  # SQLite would sleep a millisecond before it looks again
    print("watching", flush=True)
    seen: dict[str, int] = {}
    while len(seen) < int(count):
        try:
            rows = connection.execute("select rowid, text from t where rowid > ? order by rowid", (last,)).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WATCH_PAUSE_S)
            continue
        now = time.monotonic_ns()
        for rowid, text in rows:
            last = rowid
            if text.startswith(prefix):
                seen[text] = now
        time.sleep(WATCH_PAUSE_S)
    print(json.dumps(seen), flush=True)


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "post": post, "insert": insert, "watch": watch}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
