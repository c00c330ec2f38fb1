"""Rules that no linter knows: small files with speaking names, no code ever read from data."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TypeGuard

import pytest
from source_tree import ROOT, sources

MOST_LINES = 400
NAMELESS = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
# modules that run code found in the data they read; `pickle` is allowed for its exception types alone
UNSAFE = {"cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLE_ERRORS = {"PickleError", "PicklingError", "UnpicklingError"}
# words that meant something else from file to file; each is defined once, and imported
ONE_MEANING = {"FloatArray", "Float64Array", "IntArray", "UInt8Array", "PRECISIONS", "WEIGHTED"}
# a name that only says that something was looked for; its contents have a noun
EMPTY_NAMES = {"found"}


def python_files() -> list[str]:
    """Every Python file of the repository, relative to its root."""
    shipped = {path.relative_to(ROOT).as_posix() for path in sources().values()}
    return sorted(shipped | {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*.py")})


def files_of_tests() -> list[str]:
    """Every Python file of the tests, relative to the repository's root."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))


def unsafe_reads(source: str) -> list[str]:
    """`line: reason` for each place that can run code found in data."""
    tree = ast.parse(source)
    return [f"{line}: {reason}" for node in ast.walk(tree) for line, reason in _judge(node)]


def _judge(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in UNSAFE)
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = {alias.name for alias in node.names}
        if node.module in UNSAFE or (node.module == "pickle" and names - PICKLE_ERRORS):
            yield node.lineno, f"from {node.module}"
    elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr not in PICKLE_ERRORS:
        yield node.lineno, f"pickle.{node.attr}"
    elif isinstance(node, ast.Call):
        yield from _judge_call(node)


def _judge_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    name = ast.unparse(node.func)
    if name == "torch.load" and given.get("weights_only") != "True":
        yield node.lineno, "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield node.lineno, f"{name} with allow_pickle"
    if name in {"eval", "exec"}:
        yield node.lineno, name


@pytest.mark.parametrize("name", python_files())
def test_no_file_is_long(name: str):
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{name} has {lines} lines: two rooms in one"


def test_no_file_has_a_name_that_says_nothing():
    assert [name for name in python_files() if name.rpartition("/")[2] in NAMELESS] == []


@pytest.mark.parametrize("name", python_files())
def test_nothing_unpickles(name: str):
    assert unsafe_reads((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        ("import joblib", ["1: joblib"]),
        ("from pickle import loads", ["1: from pickle"]),
        ("import pickle\npickle.load(f)", ["2: pickle.load"]),
        ("torch.load(f)", ["1: torch.load without weights_only=True"]),
        ("torch.load(f, weights_only=False)", ["1: torch.load without weights_only=True"]),
        ("np.load(f, allow_pickle=True)", ["1: np.load with allow_pickle"]),
        ("eval(text)", ["1: eval"]),
    ],
)
def test_a_planted_unsafe_read_is_found(source: str, reasons: list[str]):
    assert unsafe_reads(source) == reasons


def test_safe_reads_are_no_fault():
    safe = "import pickle\ntorch.load(f, weights_only=True)\nnp.load(f)\nnetwork.eval()\nraise pickle.UnpicklingError"
    assert unsafe_reads(safe) == []


def empty_names(source: str) -> list[str]:
    """`line: name` for each variable or parameter, also of a comprehension, with a name of `EMPTY_NAMES`."""
    bound = ((node.lineno, name) for node in ast.walk(ast.parse(source)) for name in _bound(node))
    return [f"{line}: {name}" for line, name in sorted(bound) if name in EMPTY_NAMES]


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name


@pytest.mark.parametrize("name", [*python_files(), *files_of_tests()])
def test_a_variable_says_what_it_holds(name: str):
    assert empty_names((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("def f():\n    found = 1", ["2: found"]),
        ("for found in ():\n    pass", ["1: found"]),
        ("def f(found: int): ...", ["1: found"]),
        ("g(lambda *, found: 1)", ["1: found"]),
        ("[1 for row, found in pairs]", ["1: found"]),
        ("with a() as found: ...\nif (found := 1): ...", ["1: found", "2: found"]),
        ("try: ...\nexcept OSError as found: ...", ["2: found"]),
        ("f'expected {row}, found {name}'\nself.found = row.found\nf(found=1)", []),
    ],
)
def test_a_planted_empty_name_is_found(source: str, lines: list[str]):
    assert empty_names(source) == lines


@pytest.mark.parametrize("name", [name for name in python_files() if not name.startswith(("core/", "examples/"))])
def test_extras_are_named_in_one_place(name: str):
    """What a missing package needs stands in `core/parts.py`; `import_part` and its neighbours say it."""
    strings = (node.value for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))) if _is_text(node))
    assert [text for text in strings if "resnetrt[" in text] == []


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def public_names(tree: ast.Module) -> Iterator[str]:
    """The public classes at the top of a module, and its constants of `ONE_MEANING`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (item.id for item in targets if isinstance(item, ast.Name) and item.id in ONE_MEANING)


def defined_twice(modules: Mapping[str, str]) -> list[str]:
    """`name: modules` for each public class, or word of one meaning, that several modules define."""
    places: dict[str, list[str]] = defaultdict(list)
    for module, source in modules.items():
        for name in public_names(ast.parse(source)):
            places[name].append(module)
    return [f"{name}: {', '.join(modules_of)}" for name, modules_of in sorted(places.items()) if len(modules_of) > 1]


def test_no_two_classes_have_one_name():
    """A name says what a thing is, also where it is read without its module: in a traceback, a search, a review."""
    assert defined_twice({name: path.read_text(encoding="utf-8") for name, path in sources().items()}) == []


@pytest.mark.parametrize(
    ("first", "second", "reports"),
    [
        ("class Plan: ...", "class Plan: ...", ["Plan: a, b"]),
        ("WEIGHTED = (1,)", "WEIGHTED: tuple = (1,)", ["WEIGHTED: a, b"]),
        ("class _Plan: ...", "class _Plan: ...", []),
        ("def f():\n    class Plan: ...", "class Plan: ...", []),
        ("FILE = 1", "FILE = 2", []),
        ("from a import Plan", "class Plan: ...", []),
    ],
)
def test_a_planted_second_class_is_found(first: str, second: str, reports: list[str]):
    assert defined_twice({"a": first, "b": second}) == reports
