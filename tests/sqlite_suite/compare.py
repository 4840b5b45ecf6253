"""Holds what a file of the suite does on a mount against what it does on ext4.

Strategy: equal is what counts, not "0 errors": a test that fails in both places by the same name is no difference.
The result on ext4 is measured in the same run, unless it is known from one before.
"""

import fnmatch
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.sqlite_suite.build import EXT4_RESULTS, Testfixture, cache_dir
from tests.sqlite_suite.files import DIFFERENCES
from tests.sqlite_suite.suite import FILE_TIMEOUT_S, FileResult, run_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One file in both places."""

    bare: FileResult
    mounted: FileResult

    @property
    def only_on_mount(self) -> tuple[str, ...]:
        """Tests that fail on the mount, not on ext4, and are not meant to."""
        return tuple(
            test for test in self.mounted.failed if test not in self.bare.failed and not _is_known_difference(test)
        )

    @property
    def different_n(self) -> int:
        """How many tests fail on the mount because they are meant to (`files.DIFFERENCES`)."""
        return sum(map(_is_known_difference, self.mounted.failed))

    @property
    def is_same(self) -> bool:
        """Whether the mount did what ext4 does."""
        ran_to_its_end = self.mounted.outcome in ("pass", "fail")
        return (ran_to_its_end and not self.only_on_mount) or self.mounted.outcome == self.bare.outcome == "crash"

    @property
    def verdict(self) -> str:
        """One line for the table."""
        if self.is_same:
            notes = ["ends early in both"] if self.mounted.outcome == "crash" else []
            notes += [f"{len(self.bare.failed)} fail in both"] if self.bare.failed else []
            notes += [f"{self.different_n} known differences"] if self.different_n else []
            return f"as on ext4 ({', '.join(notes)})" if notes else "as on ext4"
        if self.mounted.outcome == self.bare.outcome == "timeout":
            return "takes too long in both"
        if self.mounted.outcome in ("timeout", "crash"):
            return self.mounted.outcome
        tests = " ".join(self.only_on_mount[:6])
        more = len(self.only_on_mount) - 6
        return f"{len(self.only_on_mount)} fail on the mount only: {tests}" + (f" and {more} more" if more > 0 else "")


def _is_known_difference(test: str) -> bool:
    return any(fnmatch.fnmatchcase(test, pattern) for patterns in DIFFERENCES.values() for pattern in patterns.split())


def compare_file(
    fixture: Testfixture,
    name: str,
    bare_dir: Path,
    mount_dir: Path,
    *,
    on_timeout: Callable[[], None],
    timeout_s: float = FILE_TIMEOUT_S,
) -> Comparison:
    """Runs one file on ext4, unless its result there is known, and on the mount.

    Args:
        fixture: the test program.
        name: of the file without `.test`.
        bare_dir: an empty directory on the machine's own file system.
        mount_dir: an empty directory of the mount; only children touch it.
        on_timeout: aborts the mount.
        timeout_s: in each place.
    """
    return Comparison(
        bare=_on_ext4(fixture, name, bare_dir, timeout_s),
        mounted=run_file(fixture, name, mount_dir, on_timeout=on_timeout, timeout_s=timeout_s),
    )


def _on_ext4(fixture: Testfixture, name: str, bare_dir: Path, timeout_s: float) -> FileResult:
    """Returns the result on ext4, kept in the cache since it depends on SQLite alone."""
    known = cache_dir() / EXT4_RESULTS / f"{fixture.version}-{name}.json"
    if known.exists():
        fields = json.loads(known.read_text())
        return FileResult(**fields | {"failed": tuple(fields["failed"])})
    result = run_file(fixture, name, bare_dir, timeout_s=timeout_s)
    if result.outcome in ("pass", "fail"):
        known.parent.mkdir(exist_ok=True)
        known.write_text(json.dumps(asdict(result)))
    return result
