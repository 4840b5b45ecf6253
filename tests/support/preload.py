"""Libraries in C that change what a program is told by its system, loaded into it with LD_PRELOAD."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_COMPILE_TIMEOUT_S = 60.0


def compiled(name: str, directory: Path) -> Path:
    """Compiles `name`.c, which lies beside this module, into a directory and returns the library.

    Where there is no C compiler the test is skipped, except in CI, where that is a failure.
    """
    if shutil.which("gcc") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("gcc is missing")
        pytest.skip(f"gcc is missing: {name}.c cannot be compiled")
    library, source = directory / f"{name}.so", Path(__file__).with_name(f"{name}.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, timeout=_COMPILE_TIMEOUT_S, capture_output=True)
    return library
