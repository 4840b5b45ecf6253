"""Exceptions as exit codes.

    0    done
    1    the command failed; also what no table knows, with a traceback
    2    the command line, the configuration or the data directory is refused; nothing was created
    N    `litefs mount`: the exit code of the application; 128 + N when signal N ended it
    99   the data directory cannot be trusted to take another write; a restart recovers
    130  interrupted by Ctrl-C

Source: LiteFS 0.5.14, `cmd/litefs/main.go`; 130 is what shells use.
"""

from litefs.errors import ConfigError, DataDirVersionError, DiskLostError, LiteFSError

FAILURE = 1
REFUSED = 2
DISK_LOST = 99
INTERRUPTED = 130

_CODES: dict[type[BaseException], int] = {
    ConfigError: REFUSED,
    DataDirVersionError: REFUSED,
    DiskLostError: DISK_LOST,
    LiteFSError: FAILURE,
    KeyboardInterrupt: INTERRUPTED,
}


def exit_code_of(error: BaseException) -> int | None:
    """Returns the exit code of the closest class in the table, None if there is none: a fault of ours."""
    for error_class in type(error).__mro__:
        if error_class in _CODES:
            return _CODES[error_class]
    return None
