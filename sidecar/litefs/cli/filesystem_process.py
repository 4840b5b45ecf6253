"""Entry point of the filesystem process: `python -m litefs.cli.filesystem_process`."""

import logging
import os
import sys

import msgspec

from litefs.cli.descriptors import allow_many_descriptors
from litefs.cli.exit_codes import exit_code_of
from litefs.cli.logs import configure
from litefs.errors import LiteFSError
from litefs.filesystem.server import FilesystemServer
from litefs.link.settings import SETTINGS_VARIABLE, FilesystemSettings


def main() -> int:
    """Serves the mount until it is detached. Returns the exit code."""
    settings = msgspec.json.decode(os.environ[SETTINGS_VARIABLE], type=FilesystemSettings)
    configure(settings.log, "filesystem")
    allow_many_descriptors()
    try:
        FilesystemServer(settings).run()
    except LiteFSError as error:
        logging.getLogger("litefs").error("%s", error)
        return exit_code_of(error) or 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
