"""What the guides refer to is there: files, headings, modules and tests."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GUIDES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("charts/*/*.md")])
PROGRAMS = [path for name in ("sidecar", "operator", "tests", "bench", "demo", "e2e", "charts", "scripts")
            for path in (REPOSITORY / name).rglob("*.py")]  # fmt: skip

_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_NAMED_PROGRAM = re.compile(r"`([\w/]+\.py)\b")
_NAMED_TEST = re.compile(r"`([\w/]*\.py)?(?:\[\w+\])?(?:::(test_[\w*]+))?")


def names_of(guides: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in guides]


def anchors_of(path: Path) -> set[str]:
    """Returns what headings are called in links, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=names_of(GUIDES))
def test_links_lead_somewhere(guide: Path) -> None:
    for target, anchor in _LINK.findall(guide.read_text()):
        path = (guide.parent / target) if target else guide
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), f"{target}#{anchor}"


@pytest.mark.parametrize("guide", GUIDES, ids=names_of(GUIDES))
def test_programs_that_are_named_are_there(guide: Path) -> None:
    there = [f"/{path.relative_to(REPOSITORY)}" for path in PROGRAMS]
    missing = [
        name for name in _NAMED_PROGRAM.findall(guide.read_text()) if not any(p.endswith(f"/{name}") for p in there)
    ]
    assert not missing


def test_the_tests_of_each_invariant_are_there() -> None:
    """A test without a file before it is of the last one that is named."""
    texts = {f"/{path.relative_to(REPOSITORY)}": path.read_text() for path in PROGRAMS if path.name.startswith("test_")}
    missing, files = [], list[str]()
    for name, test in _NAMED_TEST.findall((REPOSITORY / "docs/invariants.md").read_text()):
        if name:
            files = [path for path in texts if path.endswith(f"/{name}")]
        defined = [found for path in files for found in re.findall(r"def (test_\w+)", texts[path])]
        if test and not any(fnmatch(found, test) for found in defined):
            missing.append(f"{name}::{test}")
    assert not missing
