"""Runs SQLite's suite on ext4 and on a mount of this checkout, file by file, and prints how they compare.

    tests/sqlite_suite/run                   every file of the list
    tests/sqlite_suite/run --quick           the subset of `make test`
    tests/sqlite_suite/run --rest --results FILE     all other files, an hour or two; goes on where it was stopped
    tests/sqlite_suite/run --on DIR wal2     on any directory, here one file
    tests/sqlite_suite/run --verbose wal2    with the end of what a file printed that failed

The exit code is 0 when every file does on the mount what it does on ext4.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.sqlite_suite.build import SuiteUnavailableError, Testfixture, obtain_testfixture
from tests.sqlite_suite.compare import Comparison, compare_file
from tests.sqlite_suite.files import ALL_FILES, EXCLUDED_FILES, NO_TESTS, QUICK_FILES, SUITE_SETTINGS
from tests.sqlite_suite.suite import FILE_TIMEOUT_S
from tests.support.filesystem_node import FilesystemNode


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(prog="tests/sqlite_suite/run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="names without .test; all of the list if none")
    parser.add_argument("--quick", action="store_true", help="run the quick subset")
    parser.add_argument("--rest", action="store_true", help="run all files that are not on the list")
    parser.add_argument("--results", type=Path, metavar="FILE", help="append each result; leave out what is there")
    parser.add_argument("--time-limit", type=float, default=FILE_TIMEOUT_S, metavar="S", help="of a file, each place")
    parser.add_argument("--on", type=Path, metavar="DIR", help="an empty directory, instead of a mount of our own")
    parser.add_argument("--verbose", action="store_true", help="print the end of the output of files that differ")
    arguments = parser.parse_args()
    try:
        fixture = obtain_testfixture()
    except SuiteUnavailableError as error:
        print(f"SQLite's suite cannot be had here: {error}", file=sys.stderr)
        return 2
    listed = rest(fixture) if arguments.rest else QUICK_FILES if arguments.quick else ALL_FILES
    done = _names_in(arguments.results)
    names = [name for name in arguments.files or listed if name not in done]
    print(f"SQLite {fixture.version}, {len(names)} files")
    print(f"{'file':18} {'tests':>6} {'ext4 s':>7} {'mount':>6} {'mount s':>8}  verdict")
    differing = _compare(fixture, names, arguments)
    print(f"{len(names) - differing} of {len(names)} files as on ext4")
    for name, reason in EXCLUDED_FILES.items():
        if not arguments.files:
            print(f"not run: {name}, which {reason}")
    return 1 if differing else 0


def rest(fixture: Testfixture) -> Sequence[str]:
    """Returns the files of the suite that are on no list, sorted."""
    every = {path.stem for path in fixture.test_dir.glob("*.test")}
    return sorted(every - {*ALL_FILES, *EXCLUDED_FILES, *NO_TESTS})


def _compare(fixture: Testfixture, names: Sequence[str], arguments: argparse.Namespace) -> int:
    """Returns how many files differ."""
    differing = 0
    with tempfile.TemporaryDirectory(prefix="sqlite-suite-", ignore_cleanup_errors=True) as directory:
        bare = Path(directory).resolve() / "bare"
        bare.mkdir()
        node = FilesystemNode(Path(directory) / "node", settings=SUITE_SETTINGS)
        try:
            for name in names:
                under_test = arguments.on.resolve() if arguments.on else _living_mount(node)
                comparison = compare_file(
                    fixture, name, bare, under_test, on_timeout=node.free, timeout_s=arguments.time_limit
                )
                _print(comparison, verbose=arguments.verbose)
                _keep(comparison, arguments.results)
                differing += not comparison.is_same
        finally:
            node.stop()
        if differing and arguments.verbose:
            print(node.log_text()[-8000:])
    return differing


def _living_mount(node: FilesystemNode) -> Path:
    """Returns the mount, started again if the last file of the suite was too much for it."""
    if not node.is_alive:
        node.stop()
        node.start()
    return node.mount_dir


def _names_in(results: Path | None) -> set[str]:
    if results is None or not results.exists():
        return set()
    return {json.loads(line)["name"] for line in results.read_text().splitlines()}


def _keep(comparison: Comparison, results: Path | None) -> None:
    if results is not None:
        outcome = {"name": comparison.bare.name, "is_same": comparison.is_same, "verdict": comparison.verdict}
        with results.open("a") as file:
            file.write(json.dumps(outcome | asdict(comparison)) + "\n")


def _print(comparison: Comparison, *, verbose: bool) -> None:
    bare, mounted = comparison.bare, comparison.mounted
    times = f"{bare.test_n:6} {bare.seconds:7.1f} {mounted.test_n:6} {mounted.seconds:8.1f}"
    print(f"{bare.name:18} {times}  {comparison.verdict}", flush=True)
    if verbose and not comparison.is_same:
        print(mounted.output)


if __name__ == "__main__":
    sys.exit(main())
