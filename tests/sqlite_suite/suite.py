"""Runs files of SQLite's suite in a directory, one process group and one time limit each.

Strategy: the directory may lie on a mount that hangs. So nothing here touches it: `testfixture` and the command
that empties it run as children with a time limit, and a caller that knows how to free the mount passes
`on_timeout`. The suite runs as root but without the capabilities that let root ignore permission bits, since
some tests check that a read-only file is refused.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.sqlite_suite.build import Testfixture

FILE_TIMEOUT_S = 180.0
"""The slowest file takes 15 s on ext4; a mount may be ten times slower before it counts as hung."""

_CLEAN_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 5.0
_SUMMARY = re.compile(r"^(\d+) errors out of (\d+) tests", re.MULTILINE)
_FAILED_TESTS = re.compile(r"^!Failures on these tests: (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What became of one file.

    Attributes:
        name: of the file without `.test`.
        outcome: "pass", "fail", "crash" (no summary line) or "timeout".
        test_n: tests run.
        failed: names of the tests that failed, in order, each once.
        seconds: wall time.
        output: the end of what it printed.
    """

    name: str
    outcome: str
    test_n: int
    failed: tuple[str, ...]
    seconds: float
    output: str

    @property
    def passed(self) -> bool:
        """Says whether every test of the file passed."""
        return self.outcome == "pass"


def run_file(
    fixture: Testfixture,
    name: str,
    directory: Path,
    *,
    on_timeout: Callable[[], None] = lambda: None,
    timeout_s: float = FILE_TIMEOUT_S,
) -> FileResult:
    """Runs one file and empties the directory afterwards.

    Args:
        name: of the file without `.test`.
        directory: the working directory of the test, empty.
        on_timeout: called when the time limit has passed; aborts the mount, so that the child can be killed.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sqlite-suite-") as scratch:
        command = [*_without_overriding_permissions(), str(fixture.program), str(fixture.test_dir / f"{name}.test")]
        environment = os.environ | {
            "SQLITE_TESTDIR": str(directory),
            "SQLITE_SCRATCH": scratch,
        }
        output_path = Path(scratch) / "output"
        with output_path.open("wb") as output_file:
            child = subprocess.Popen(
                command,
                cwd=scratch,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = _wait(child, timeout_s, on_timeout)
        output = output_path.read_text(encoding="utf-8", errors="replace")
    if code is not None:
        _empty(directory, on_timeout)
    return _judge(name, code, output, time.monotonic() - started)


def _judge(name: str, code: int | None, output: str, seconds: float) -> FileResult:
    summary = _SUMMARY.search(output)
    listed = _FAILED_TESTS.search(output)
    failed = tuple(dict.fromkeys(listed.group(1).split())) if listed else ()
    if code is None:
        outcome = "timeout"
    elif summary is None:
        outcome = "crash"
    elif code == 0 and summary.group(1) == "0":
        outcome = "pass"
    else:
        outcome = "fail"
    test_n = int(summary.group(2)) if summary else 0
    return FileResult(name=name, outcome=outcome, test_n=test_n, failed=failed, seconds=seconds, output=output[-4000:])


def _wait(child: "subprocess.Popen[bytes]", timeout_s: float, on_timeout: Callable[[], None]) -> int | None:
    """Returns the exit code, or None after the time limit, when the group is killed."""
    try:
        return child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        pass
    finally:
        # Also after a regular end: tests leave children behind, which would keep files of the mount open.
        _kill_group(child.pid)
    try:
        child.wait(_KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        on_timeout()
        child.wait(_KILL_TIMEOUT_S)
    return None


def _kill_group(pgid: int) -> None:
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _empty(directory: Path, on_timeout: Callable[[], None]) -> None:
    """Removes what the test left, from a child process since the directory may hang."""
    script = 'cd "$1" && chmod -R u+rwX . && find . -mindepth 1 -delete'
    child = subprocess.Popen(
        ["sh", "-c", script, "sh", str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    _wait(child, _CLEAN_TIMEOUT_S, on_timeout)


def _without_overriding_permissions() -> list[str]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
