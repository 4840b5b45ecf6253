"""SQLite's own tests on a mount: the quick subset, one test per file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sqlite_suite.build import SuiteUnavailableError, Testfixture, obtain_testfixture
from tests.sqlite_suite.compare import compare_file
from tests.sqlite_suite.files import QUICK_FILES, SUITE_SETTINGS
from tests.support.filesystem_node import FilesystemNode


@pytest.fixture(scope="module")
def fixture() -> Testfixture:
    """SQLite's test program; the tests are skipped with a reason where its source package cannot be had."""
    try:
        return obtain_testfixture()
    except SuiteUnavailableError as error:
        pytest.skip(f"SQLite's suite cannot be had here: {str(error)[:300]}")


@pytest.fixture(scope="module")
def suite_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilesystemNode]:
    """A primary whose kernel checks permission bits."""
    if not Path("/dev/fuse").exists() and os.environ.get("CI") != "true":
        pytest.skip("/dev/fuse is missing")
    node = FilesystemNode(tmp_path_factory.mktemp("suite-node"), settings=SUITE_SETTINGS)
    yield node
    node.stop()


@pytest.mark.parametrize("name", QUICK_FILES)
def test_a_file_of_the_suite_does_on_the_mount_what_it_does_on_ext4(
    fixture: Testfixture, suite_node: FilesystemNode, tmp_path: Path, name: str
) -> None:
    if not suite_node.is_alive:
        suite_node.stop()
        suite_node.start()
    comparison = compare_file(fixture, name, tmp_path, suite_node.mount_dir, on_timeout=suite_node.free)
    assert comparison.is_same, f"{name}: {comparison.verdict}\n{comparison.mounted.output}"
