"""The limits of the house style that no linter checks.

The rules, exactly:
    - A module has at most 500 lines, blank lines and comments included.
    - A function has at most 60 lines from `def` to its end, decorators and docstring not counted, nested functions
      counted.
    - A function nests at most 3 blocks. Blocks are if, for, while, with, try and match; `elif` stays on the level of
      its `if`, and `else`, `except`, `finally` and `case` on that of their statement. A nested function starts at 0.
    - A package's `__init__.py` is a docstring and nothing else.
    - No module is called utils, helpers, common, manager or base.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHECKED_FOLDERS = ("sidecar", "operator", "tests", "bench", "demo", "e2e", "charts")
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_NESTED_BLOCKS = 3
MEANINGLESS_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "base"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def docstring_lines(function: FunctionNode) -> int:
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def function_lines(function: FunctionNode) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - docstring_lines(function)


def is_elif(parent: ast.AST, child: ast.AST) -> bool:
    """A lone `if` in the `else` of an `if`: what the parser makes of `elif`."""
    return isinstance(parent, ast.If) and isinstance(child, ast.If) and parent.orelse == [child]


def nested_blocks(node: ast.AST, depth: int = 0) -> int:
    """The deepest level of blocks below `node`, which itself is on level `depth`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        deeper = isinstance(child, BLOCKS) and not is_elif(node, child)
        deepest = max(deepest, nested_blocks(child, depth + deeper))
    return deepest


def violations(path: Path, source: str) -> Iterator[str]:
    tree = ast.parse(source)
    line_n = len(source.splitlines())
    if line_n > MAX_MODULE_LINES:
        yield f"{path}: {line_n} lines, at most {MAX_MODULE_LINES}"
    if path.stem in MEANINGLESS_NAMES:
        yield f"{path}: name the module after the one thing that it is about"
    if path.name == "__init__.py" and (len(tree.body) != 1 or ast.get_docstring(tree) is None):
        yield f"{path}: a package's __init__ is a docstring and nothing else"
    for node in ast.walk(tree):
        if not isinstance(node, FunctionNode):
            continue
        if function_lines(node) > MAX_FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {function_lines(node)} lines, at most {MAX_FUNCTION_LINES}"
        if nested_blocks(node) > MAX_NESTED_BLOCKS:
            yield f"{path}:{node.lineno}: {node.name} nests {nested_blocks(node)} blocks, at most {MAX_NESTED_BLOCKS}"


def python_files() -> list[Path]:
    return sorted(path for folder in CHECKED_FOLDERS for path in (REPOSITORY / folder).rglob("*.py"))


def test_no_source_exceeds_the_limits() -> None:
    files = python_files()
    assert REPOSITORY / "sidecar/litefs/errors.py" in files
    found = [line for path in files for line in violations(path.relative_to(REPOSITORY), path.read_text())]
    assert not found, "\n" + "\n".join(found)


def check(source: str, name: str = "module.py") -> list[str]:
    return list(violations(Path(name), source))


@pytest.mark.parametrize(("line_n", "expected"), [(500, 0), (501, 1)])
def test_counts_the_lines_of_a_module(line_n: int, expected: int) -> None:
    assert len(check("\n" * line_n)) == expected


@pytest.mark.parametrize(("line_n", "expected"), [(58, 0), (59, 0), (60, 1)])
def test_counts_the_lines_of_a_function_without_docstring_and_decorators(line_n: int, expected: int) -> None:
    source = '@cache\ndef f():\n    """First.\n\n    Last.\n    """\n' + "    x = 1\n" * line_n
    assert len(check(source)) == expected


def test_counts_nested_blocks_of_every_kind() -> None:
    nest = "def f():\n if a:\n  for b in c:\n   while d:\n    "
    assert check(nest + "pass") == []
    for block in ("with e: pass", "try: pass\n    except E: pass", "if e: pass", "match e:\n     case 1: pass"):
        assert len(check(nest + block)) == 1


def test_elif_and_except_do_not_nest() -> None:
    assert check("def f():\n if a: pass\n elif b: pass\n elif c: pass\n elif d: pass\n else: pass") == []
    assert check("def f():\n if a:\n  with b:\n   try: pass\n   except C: pass\n   finally: pass") == []


def test_a_nested_function_starts_anew() -> None:
    assert check("def f():\n if a:\n  if b:\n   def g():\n    if c:\n     if d: pass") == []


def test_an_init_holds_only_its_docstring() -> None:
    assert check('"""What belongs here."""\n', "package/__init__.py") == []
    assert len(check("", "package/__init__.py")) == 1
    assert len(check('"""What belongs here."""\nX = 1\n', "package/__init__.py")) == 1


def test_a_module_has_a_name_that_says_something() -> None:
    assert len(check("", "storage/helpers.py")) == 1
