"""`litefs export`: copies a database of a node into a file."""

import errno
import http.client
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

from litefs.cli import api_client, logs
from litefs.cli.flags import Flag, Usage
from litefs.cli.progress import Progress
from litefs.errors import LiteFSError, PeerError
from litefs.link.settings import LogSettings

USAGE = Usage(
    synopsis="litefs export -name DATABASE [-url URL] PATH",
    text="""
Writes the database as it stands on a node, any node, to PATH. An existing file is replaced when the copy is complete
and on disk; until then it stays as it is.

examples:
  litefs export -name app.db /backup/app.db
  litefs export -url http://replica:20202 -name app.db app.db

exit codes: 0 exported, 1 failed (PATH is as it was), 2 wrong usage
""",
    flags=(
        Flag(name="name", value_name="DATABASE", help="name of the database in the mount", required=True),
        Flag(name="url", value_name="URL", help="API of a node", default=api_client.DEFAULT_URL),
    ),
    word_n=(1, 1),
)

SIDE_FILE_SUFFIXES = ("-journal", "-wal", "-shm")
_PIECE_BYTES = 1 << 20


def run(arguments: Sequence[str]) -> int:
    """Exports one database.

    Raises:
        ConfigError: wrong usage.
        LiteFSError: the file cannot be written.
        PeerError: the node does not have the database, or the transfer broke off.
    """
    parsed = USAGE.parse(arguments)
    logs.configure(LogSettings(), "export")
    path, name = parsed.words[0], parsed.texts["name"]
    temporary = f"{path}.{os.getpid()}.tmp"
    if os.path.isdir(path):
        raise LiteFSError(f"cannot write {path}: {os.strerror(errno.EISDIR)}")
    try:
        with api_client.request(parsed.texts["url"], "GET", "/export", query={"name": name}) as response:
            _download(response, temporary, Progress(f"exporting {name}", response.length, stream=sys.stderr))
    except OSError as error:
        raise LiteFSError(f"cannot write {temporary}: {error.strerror}") from error
    try:
        _replace(path, temporary)
    except OSError as error:
        raise LiteFSError(f"cannot replace {path}: {error.strerror}; the copy is complete in {temporary}") from error
    return 0


def _download(response: http.client.HTTPResponse, temporary: str, progress: Progress) -> None:
    """Writes the body to `temporary` and syncs it, or removes it."""
    # Over what a killed process of the same id left: in a container each may have the same.
    with open(temporary, "wb") as file:
        try:
            _receive(response, file, progress)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(temporary)
            raise
    progress.finish()


def _receive(response: http.client.HTTPResponse, file: BinaryIO, progress: Progress) -> None:
    expected = response.length
    while piece := response.read(_PIECE_BYTES):
        file.write(piece)
        progress.advance(len(piece))
    if expected is not None and progress.done_bytes != expected:
        raise PeerError(f"the node closed the connection after {progress.done_bytes} of {expected} bytes")


def _replace(path: str, temporary: str) -> None:
    """Puts the complete copy in place.

    A journal or WAL beside `path` belongs to the old database, and SQLite would play it into the new one. So they must
    never stand beside it: if there are any, the old database goes first.

    Crash: without side files there is the old database or the new one. With them, death in between leaves no database
    at `path`, and the complete copy under its temporary name; never a database beside a journal that is not its own.
    """
    stale = [path + suffix for suffix in SIDE_FILE_SUFFIXES if os.path.exists(path + suffix)]
    if stale:
        for old in (path, *stale):
            if os.path.exists(old):
                os.unlink(old)
        _sync_directory(path)
    os.rename(temporary, path)
    _sync_directory(path)


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
