"""Follows a primary over plain HTTP/1.1 and throws away what comes: HOST PORT COUNT STALLED.

STALLED of the COUNT connections are never read. Says "ready" when all streams are open; ends with its standard input.
"""

import json
import selectors
import socket
import struct
import sys
import time

START_TIMEOUT_S = 30.0


def _connect(host: str, port: int) -> socket.socket:
    """The mount of a node is there a moment before its API."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return socket.create_connection((host, port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _open(host: str, port: int, node_id: int) -> socket.socket:
    """Asks for the stream from position 0 of everything; returns when the head of the answer is there."""
    connection = _connect(host, port)
    body = struct.pack(">I", 0)  # a position map without entries
    head = (
        f"POST /stream HTTP/1.1\r\nHost: {host}\r\nLitefs-Id: {node_id:016X}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(1)
        if not data:
            raise OSError(f"the stream was refused: {answer[:200]!r}")
        answer += data
    if b" 200 " not in answer.split(b"\r\n", 1)[0]:
        raise OSError(f"the stream was refused: {answer[:200]!r}")
    connection.setblocking(False)
    return connection


def main() -> None:
    """Reads until standard input ends, then prints how many bytes came."""
    host, port, count, stalled = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    connections = [_open(host, port, 1000 + number) for number in range(count)]
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    for connection in connections[stalled:]:
        selector.register(connection, selectors.EVENT_READ)
    print("ready", flush=True)
    sys.stdin.readline()
    received = ended = 0
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(json.dumps({"bytes": received, "ended": ended}), flush=True)
                return
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 20)
            received += len(data)
            if not data:
                ended += 1
                selector.unregister(key.fileobj)


main()
