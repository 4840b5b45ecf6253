"""Entry point of the filesystem process: `python -m litefs.cli.filesystem_process`."""

import logging
import os
import sys

import msgspec

from litefs.cli.descriptors import allow_many_descriptors
from litefs.cli.exit_codes import FAILURE, exit_code_of
from litefs.cli.logs import configure
from litefs.errors import LiteFSError, StorageError
from litefs.filesystem.server import FilesystemServer
from litefs.link.settings import SETTINGS_VARIABLE, FilesystemSettings


def main() -> int:
    """Serves the mount until it is detached. Returns the exit code."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=FilesystemSettings)
    configure(settings.log, "filesystem")
    allow_many_descriptors()
    try:
        _opened(settings).run()
    except LiteFSError as error:
        logging.getLogger("litefs").error("%s", error)
        return exit_code_of(error) or FAILURE
    return 0


def _opened(settings: FilesystemSettings) -> FilesystemServer:
    try:
        return FilesystemServer(settings)
    except OSError as error:  # the disk is full, read-only, or not ours
        raise StorageError(f"{error.filename or settings.data_dir}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
