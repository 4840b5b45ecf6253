"""Finds programs of the original LiteFS, written in Go, or builds them: the other side of the interoperation tests.

Looked for in this order: the path that a variable names; the PATH; the cache; and where Go is there (and for LiteFS a C
compiler), one is built from its Go module into the cache (70 s for LiteFS, the first time). The cache is outside any
checkout: `~/.cache/litefs-tools`.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

BUILD_TIMEOUT_S = 600.0
"""Seventy seconds of one idle core; longer with other load and a slow module proxy."""

_GO_MOD = """module example.com/tools/{program}

go 1.24

tool {module}/{package}

require {module} v{version}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoTool:
    """A program of a Go module.

    Attributes:
        variable: of the environment: names a binary to use instead.
        program: its name on the PATH and, with the version, in the cache.
        module: path of the module.
        package: of the program, below the module.
        version: of the module.
        needs_c: a C compiler is needed to build it.
    """

    variable: str
    program: str
    module: str
    package: str
    version: str
    needs_c: bool = False


LITEFS = GoTool(
    variable="LITEFS_GO",
    program="litefs-go",
    module="github.com/superfly/litefs",
    package="cmd/litefs",
    version="0.5.14",
    needs_c=True,
)
LTX = GoTool(
    variable="LITEFS_GO_LTX",
    program="ltx-go",
    module="github.com/superfly/ltx",
    package="cmd/ltx",
    version="0.3.14",
)


class NoGoToolError(Exception):
    """The program is not here, and cannot be built. The message says why."""


def find(tool: GoTool) -> Path:
    """Returns the path of the binary.

    Raises:
        NoGoToolError: there is none.
    """
    chosen = os.environ.get(tool.variable) or shutil.which(tool.program)
    if chosen:
        return Path(chosen).resolve()
    cached = Path.home() / ".cache" / "litefs-tools" / f"{tool.program}-{tool.version}"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with (cached.parent / f"{tool.program}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cached.exists():
            _build(tool, cached)
    return cached


def _build(tool: GoTool, target: Path) -> None:
    for compiler in ("go", "gcc") if tool.needs_c else ("go",):
        if shutil.which(compiler) is None:
            raise NoGoToolError(f"{tool.variable} is not set, and without {compiler} it cannot be built")
    with tempfile.TemporaryDirectory() as directory:
        # `go install pkg@version` asks for a list of versions that module proxies refuse; a module of its own does not.
        (Path(directory) / "go.mod").write_text(
            _GO_MOD.format(program=tool.program, module=tool.module, package=tool.package, version=tool.version)
        )
        built = target.with_suffix(".new")
        command = ["go", "build", "-ldflags", f"-s -w -X main.Version=v{tool.version}", "-o", str(built)]
        done = subprocess.run(
            [*command, f"{tool.module}/{tool.package}"],
            cwd=directory,
            env=os.environ | {"GOFLAGS": "-buildvcs=false -trimpath -mod=mod", "CGO_ENABLED": str(int(tool.needs_c))},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise NoGoToolError(f"go build: {done.stderr.strip()[-400:]}")
        built.rename(target)
