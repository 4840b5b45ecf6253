"""Finds the original LiteFS, written in Go, or builds it: the other side of the interoperation tests.

Looked for in this order: `LITEFS_GO`, the path of a binary; `litefs-go` on the PATH; the cache; and where Go and a C
compiler are there, it is built from its Go module into the cache (70 s the first time). The cache is outside any
checkout: `~/.cache/litefs-tools`.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION = "0.5.14"

BUILD_TIMEOUT_S = 600.0
"""Seventy seconds of one idle core; longer with other load and a slow module proxy."""

_MODULE = f"""module example.com/tools/litefs

go 1.24

tool github.com/superfly/litefs/cmd/litefs

require github.com/superfly/litefs v{VERSION}
"""


class NoGoLitefsError(Exception):
    """There is no Go LiteFS here, and it cannot be built. The message says why."""


def find() -> Path:
    """Returns the path of the binary.

    Raises:
        NoGoLitefsError: there is none.
    """
    chosen = os.environ.get("LITEFS_GO") or shutil.which("litefs-go")
    if chosen:
        return Path(chosen).resolve()
    cached = Path.home() / ".cache" / "litefs-tools" / f"litefs-go-{VERSION}"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with (cached.parent / "litefs-go.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cached.exists():
            _build(cached)
    return cached


def _build(target: Path) -> None:
    for tool in ("go", "gcc"):
        if shutil.which(tool) is None:
            raise NoGoLitefsError(f"LITEFS_GO is not set, and without {tool} it cannot be built")
    with tempfile.TemporaryDirectory() as directory:
        # `go install pkg@version` asks for a list of versions that module proxies refuse; a module of its own does not.
        (Path(directory) / "go.mod").write_text(_MODULE)
        built = target.with_suffix(".new")
        command = ["go", "build", "-ldflags", f"-s -w -X main.Version=v{VERSION}", "-o", str(built)]
        done = subprocess.run(
            [*command, "github.com/superfly/litefs/cmd/litefs"],
            cwd=directory,
            env=os.environ | {"GOFLAGS": "-buildvcs=false -trimpath -mod=mod", "CGO_ENABLED": "1"},
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise NoGoLitefsError(f"go build: {done.stderr.strip()[-400:]}")
        built.rename(target)
