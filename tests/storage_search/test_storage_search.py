"""A few seconds of the search in every test run, and the proof that it notices a sync that is left out."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage_search.run import ROOT
from tests.storage_search.search import Finding, Search

STEPS = 1500
SEEDS_MAX = 20
"""Until then a left-out sync must have been noticed; most are within the first."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=ROOT) as directory:
        yield Path(directory)


def new_search(directory: Path, seed: int, left_out: str = "") -> Search:
    root = directory / f"{seed}-{len(list(directory.iterdir()))}"
    root.mkdir()
    return Search(seed, root, left_out=left_out)


def finds_something(search: Search) -> bool:
    try:
        search.run(STEPS)
    except Finding:
        return True
    return False


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found(directory: Path, seed: int) -> None:
    search = new_search(directory, seed)
    search.run(STEPS)
    assert search.committed_n > 30
    assert search.cut_n > 30


@pytest.mark.parametrize(
    "label",
    [
        "log.sync",
        "log.sync_names",
        "log.void_sync",
        "base.sync",
        "incoming.sync",
        "load.sync",
        "replacement.directory",
        "recovery.sync_log",
        "recovery.sync_names",
    ],
)
def test_a_sync_that_is_left_out_is_noticed(directory: Path, label: str) -> None:
    assert any(finds_something(new_search(directory, seed, label)) for seed in range(SEEDS_MAX))


def test_a_seed_repeats(directory: Path) -> None:
    runs = [new_search(directory, 7) for _ in range(2)]
    for search in runs:
        search.run(500)
    first, second = runs
    assert first.words == second.words
    assert (first.cut_n, first.committed_n, first.refused_n) == (second.cut_n, second.committed_n, second.refused_n)
