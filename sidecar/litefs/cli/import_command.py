"""`litefs import`: copies a SQLite file into a cluster as the next transaction of a database."""

import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

from litefs.cli import api_client, logs
from litefs.cli.flags import Flag, Usage
from litefs.cli.progress import Progress
from litefs.errors import LiteFSError
from litefs.formats.sqlite_header import DATABASE_MAGIC
from litefs.link.settings import LogSettings

USAGE = Usage(
    synopsis="litefs import -name DATABASE [-url URL] PATH",
    text="""
Sends the SQLite file at PATH to the primary, where it replaces the database as one transaction, or creates it.
The file must be at rest: while a -wal or -journal beside it has something in it, the file is refused.
A node that is not the primary answers "lease expired".

examples:
  litefs import -name app.db /backup/app.db
  litefs import -url http://primary:20202 -name app.db app.db

exit codes: 0 imported, 1 refused or failed (nothing changed), 2 wrong usage
""",
    flags=(
        Flag(name="name", value_name="DATABASE", help="name of the database in the mount", required=True),
        Flag(name="url", value_name="URL", help="API of the primary", default=api_client.DEFAULT_URL),
    ),
    word_n=(1, 1),
)


class _CountedFile:
    """A file that reports what is read from it."""

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self._progress.advance(len(data))
        return data


def run(arguments: Sequence[str]) -> int:
    """Imports one file.

    Raises:
        ConfigError: wrong usage.
        LiteFSError: the file cannot be read, or the node refused it.
    """
    parsed = USAGE.parse(arguments)
    logs.configure(LogSettings(), "import")
    path, name = parsed.words[0], parsed.texts["name"]
    try:
        file = open(path, "rb")  # noqa: SIM115 -- closed below; only the opening is in this try
    except OSError as error:
        raise LiteFSError(f"cannot open {path}: {error.strerror}") from error
    with file:
        if file.read(len(DATABASE_MAGIC)) != DATABASE_MAGIC:
            raise LiteFSError(f"{path} is not a SQLite database")
        file.seek(0)
        _refuse_unfinished(path)
        size = os.fstat(file.fileno()).st_size
        progress = Progress(f"importing {name}", size, stream=sys.stderr)
        body = _CountedFile(file, progress)
        with api_client.request(
            parsed.texts["url"], "POST", "/import", query={"name": name}, body=body, body_bytes=size
        ) as response:
            response.read()
        progress.finish()
    return 0


def _refuse_unfinished(path: str) -> None:
    """Refuses a file that is not the whole database: its last transactions are in a WAL or journal beside it."""
    for suffix in ("-wal", "-journal"):
        try:
            size = os.stat(path + suffix).st_size
        except FileNotFoundError:
            continue
        if size:
            raise LiteFSError(
                f"{path}{suffix} is not empty, so {path} alone may not be the whole database: "
                "close it in every program, or copy it with VACUUM INTO, and import the copy"
            )
