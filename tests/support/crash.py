"""Applications that die at a chosen system call: the compiled `crash_at.c` and how to ask for it."""

from pathlib import Path

from tests.support import preload


def crash_library(directory: Path) -> Path:
    """Compiles `crash_at.c` into a directory and returns the library."""
    return preload.compiled("crash_at", directory)


def crash_environment(library: Path, mount_dir: Path, call: int, *, half: bool = False) -> dict[str, str]:
    """Returns the environment in which an application dies at its Nth change of a file in `mount_dir`.

    Args:
        call: 1-based.
        half: of a write, let the first half through.
    """
    return {
        "LD_PRELOAD": str(library),
        "CRASH_DIR": str(mount_dir),
        "CRASH_AT": str(call),
        "CRASH_HALF": "1" if half else "0",
    }
