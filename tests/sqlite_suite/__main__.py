"""Runs SQLite's suite on ext4 and on a mount of this checkout, file by file, and prints how they compare.

    tests/sqlite_suite/run                   every file of the list
    tests/sqlite_suite/run --quick           the subset of `make test`
    tests/sqlite_suite/run --on DIR wal2     on any directory, here one file
    tests/sqlite_suite/run --verbose wal2    with the end of what a file printed that failed

The exit code is 0 when every file does on the mount what it does on ext4.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.sqlite_suite.build import SuiteUnavailableError, obtain_testfixture
from tests.sqlite_suite.compare import Comparison, compare_file
from tests.sqlite_suite.files import ALL_FILES, EXCLUDED_FILES, QUICK_FILES, SUITE_SETTINGS
from tests.support.filesystem_node import FilesystemNode


def _living_mount(node: FilesystemNode) -> Path:
    """Returns the mount, started again if the last file of the suite was too much for it."""
    if not node.is_alive:
        node.stop()
        node.start()
    return node.mount_dir


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="tests/sqlite_suite/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="names without .test; all of the list if none")
    parser.add_argument("--quick", action="store_true", help="run the quick subset")
    parser.add_argument("--on", type=Path, metavar="DIR", help="an empty directory, instead of a mount of our own")
    parser.add_argument("--verbose", action="store_true", help="print the end of the output of files that differ")
    arguments = parser.parse_args()
    names = arguments.files or list(QUICK_FILES if arguments.quick else ALL_FILES)
    try:
        fixture = obtain_testfixture()
    except SuiteUnavailableError as error:
        print(f"SQLite's suite cannot be had here: {error}", file=sys.stderr)
        return 2
    print(f"SQLite {fixture.version}, {len(names)} files")
    print(f"{'file':14} {'tests':>6} {'ext4 s':>7} {'mount s':>8}  verdict")
    with tempfile.TemporaryDirectory(prefix="sqlite-suite-", ignore_cleanup_errors=True) as directory:
        bare = Path(directory).resolve() / "bare"
        bare.mkdir()
        node = FilesystemNode(Path(directory) / "node", settings=SUITE_SETTINGS)
        differing = 0
        try:
            for name in names:
                under_test = arguments.on.resolve() if arguments.on else _living_mount(node)
                comparison = compare_file(fixture, name, bare, under_test, on_timeout=node.free)
                _print(comparison, verbose=arguments.verbose)
                differing += not comparison.is_same
        finally:
            node.stop()
        if differing and arguments.verbose:
            print(node.log_text()[-8000:])
    print(f"{len(names) - differing} of {len(names)} files as on ext4")
    for name, reason in EXCLUDED_FILES.items():
        if not arguments.files:
            print(f"not run: {name}, which {reason}")
    return 1 if differing else 0


def _print(comparison: Comparison, *, verbose: bool) -> None:
    bare, mounted = comparison.bare, comparison.mounted
    print(
        f"{bare.name:14} {bare.test_n:6} {bare.seconds:7.1f} {mounted.seconds:8.1f}  {comparison.verdict}", flush=True
    )
    if verbose and not comparison.is_same:
        print(mounted.output)


if __name__ == "__main__":
    sys.exit(main())
