"""Applications that die at a chosen system call: the compiled `crash_at.c` and how to ask for it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("crash_at.c")
_COMPILE_TIMEOUT_S = 60.0


def crash_library(directory: Path) -> Path:
    """Compiles `crash_at.c` into a directory and returns the library.

    Where there is no C compiler the test is skipped, except in CI, where that is a failure.
    """
    if shutil.which("gcc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("gcc is missing")
        pytest.skip("gcc is missing: applications cannot be made to die at a chosen system call")
    library = directory / "crash_at.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=_COMPILE_TIMEOUT_S, capture_output=True)
    return library


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
