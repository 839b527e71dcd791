"""The rules of the house that a reader could break without noticing. docs/ARCHITECTURE.md gives their reasons.

Every rule is a function from what it judges to its complaints, and is shown here to complain about a bad example.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module may import its own layer and those below it. The longest name counts.
LAYERS = (
    ("tunneld", "tunneld.text", "tunneld.naming", "tunneld.tasks", "tunneld.proto", "tunneld.remedies"),
    (
        "tunneld.config",
        "tunneld.keys",
        "tunneld.sealed",
        "tunneld.wgconf",
        "tunneld.netcfg",
        "tunneld.netcfg.model",
        "tunneld.netcfg.operation",
        "tunneld.netcfg.plan",
    ),
    (
        "tunneld.edge",
        "tunneld.netcfg.kernel",
        "tunneld.netcfg.apply",
        "tunneld.netcfg.journal",
        "tunneld.netcfg.sweep",
        "tunneld.control",
        "tunneld.advice",
        "tunneld.instance",
        "tunneld.log",
        "tunneld.durable",
        "tunneld.stampfile",
    ),
    ("tunneld.pump",),
    ("tunneld.links", "tunneld.attachment", "tunneld.diagnosis"),
    ("tunneld.status", "tunneld.ends"),
    ("tunneld.daemon",),
    ("tunneld.lab",),
    ("tunneld.cli",),
    ("tunneld.__main__",),
)

# Whatever tells the time, draws lots, or reaches the system.
IMPURE = {
    "asyncio", "logging", "os", "pathlib", "pyroute2", "random", "secrets", "select", "selectors", "signal", "socket",
    "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uvloop",
}  # fmt: skip
PURE = ("tunneld.proto", "tunneld.netcfg.model", "tunneld.netcfg.operation", "tunneld.netcfg.plan")

CLOCKS = {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.clock_gettime"}
CLOCK_READERS = {
    "tunneld.edge.clock": "where `now` comes from",
    "tunneld.lab.capture": "a capture file holds the wall time",
}
LOOSE_TASKS = {"asyncio.create_task", "asyncio.ensure_future", "loop.create_task"}

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_TEST_FILE = 500  # tables of cases grow long without growing hard to read
MOST_LINES_OF_A_FUNCTION = 60
LONGER: dict[str, str] = {}

# Modules without a test file of their own, and why.
UNTESTED_ALONE = {
    "tunneld.__main__": "one call; every test that starts a daemon goes through it",
}
# Test files without a module of that name, and what they are about instead.
OWN_SUBJECT = {
    "tests/test_house.py": "the source itself",
    "tests/test_docs.py": "README, docs/ and man/",
    "tests/test_docs_sealed.py": "docs/PROTOCOL.md, section 7, and its vectors",
    "tests/test_configs.py": "configs/",
    "tests/test_turns.py": "pump.py and the streams that it reads",
    "tests/test_systemd.py": "systemd/",
    "tests/fuzz/test_fuzz.py": "all that reads bytes of others",
    "tests/proto/test_any_order.py": "two whole tunnels, whatever the network does",
    "tests/proto/test_published_bugs.py": "what went wrong in other tunnels",
    "tests/proto/test_second_opinion.py": "noise.py, beside the package noiseprotocol",
    "tests/links/test_strangers.py": "links/streams.py, and whoever else connects",
}
SYSTEM_TESTS = "tests/system/"

# What holds on one machine only. The brackets keep these lines from matching themselves.
LOCAL_MATTERS = re.compile(r"/wor[k]/|\bshare[d]/|/roo[t]/|/op[t]/(wheels|pypi)|pypi[.]org|pythonhosted[.]org", re.I)
WRITTEN = ("*.py", "*.md", "*.toml", "*.service", "*.lock", "*.in", "*.8", "*.5", "*.json", "Makefile", "run")


@dataclass(frozen=True)
class Module:
    name: str
    tree: ast.Module
    source: str


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source), source)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_files(directory: str) -> list[Path]:
    return sorted((ROOT / directory).rglob("*.py"))


SOURCES = {name_of(path): path for path in python_files("tunneld")}


def source_modules() -> list[Module]:
    return [parse(name, path.read_text()) for name, path in SOURCES.items()]


def imports(module: Module) -> Iterator[str]:
    """The full name of every module that is imported anywhere in this one, lazily or for types included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in SOURCES else node.module


def layer(name: str) -> int:
    """How far above the ground a module stands. Raises KeyError for one that has no place in LAYERS."""
    places = {prefix: height for height, prefixes in enumerate(LAYERS) for prefix in prefixes}
    prefix = name
    while "." in prefix and prefix not in places:
        prefix = prefix.rpartition(".")[0]
    if prefix == "tunneld" != name:
        raise KeyError(f"{name} has no place in LAYERS of tests/test_house.py")
    return places[prefix]


def upward_imports(module: Module) -> Iterator[str]:
    for imported in imports(module):
        if imported.split(".")[0] == "tunneld" and layer(imported) > layer(module.name):
            yield f"{module.name} imports {imported}, which stands above it"


def impure_imports(module: Module) -> Iterator[str]:
    if any(module.name == pure or module.name.startswith(f"{pure}.") for pure in PURE):
        for imported in imports(module):
            if imported.split(".")[0] in IMPURE:
                yield f"{module.name} is pure and imports {imported}"


def stray_pyroute2(module: Module) -> Iterator[str]:
    if module.name != "tunneld.netcfg.kernel" and any(name.split(".")[0] == "pyroute2" for name in imports(module)):
        yield f"{module.name} imports pyroute2; only netcfg/kernel.py does"


def clocks_and_loose_tasks(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        called = f"{node.value.id}.{node.attr}"
        if called in CLOCKS and module.name not in CLOCK_READERS:
            yield f"{module.name}:{node.lineno} reads the clock; edge/clock.py does, and time is an argument"
        if called in LOOSE_TASKS:
            yield f"{module.name}:{node.lineno} makes a task outside a TaskGroup"


def blanket_handlers(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        if node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"):
            yield f"{module.name}:{node.lineno} catches every exception, our own bugs included"


def wrapped_failures(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.TryStar) and any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
            yield f"{module.name}:{node.lineno} raises in except*, which wraps it before 3.11.4; see tunneld/tasks.py"


def missing_docstring(module: Module) -> Iterator[str]:
    if module.name not in UNTESTED_ALONE and ast.get_docstring(module.tree) is None:
        yield f"{module.name} does not say what it is for"


def too_long(module: Module) -> Iterator[str]:
    lines = len(module.source.splitlines())
    most = MOST_LINES_OF_A_TEST_FILE if module.name.startswith("tests.") else MOST_LINES_OF_A_FILE
    if lines > most and module.name not in LONGER:
        yield f"{module.name} has {lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > MOST_LINES_OF_A_FUNCTION and f"{module.name}.{node.name}" not in LONGER:
                yield f"{module.name}.{node.name} has {length} lines"


def unpaired(modules: Iterable[str], tests: Iterable[str]) -> Iterator[str]:
    """Modules without their test file, and test files without their module. Modules by name, tests by path."""
    wanted = {own_test(name): name for name in modules}
    found = {test for test in tests if not test.startswith(SYSTEM_TESTS)}
    for test, name in wanted.items():
        if test not in found and name not in UNTESTED_ALONE:
            yield f"{name} has no {test}"
    yield from (f"{test} tests no module of its name" for test in found - wanted.keys() - OWN_SUBJECT.keys())


def own_test(module: str) -> str:
    *package, name = module.split(".")[1:]
    return "/".join(["tests", *package, f"test_{name}.py"])


def local_matters(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if found := LOCAL_MATTERS.search(line):
            yield f"{name}:{number} speaks of {found[0]}, which only one machine has"


def dead_links(path: Path, text: str) -> Iterator[str]:
    """Relative links of a Markdown file that lead nowhere: to no file, or to no heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        file, _, heading = target.partition("#")
        if "://" in file or file.startswith("mailto:"):
            continue
        there = path.parent / file if file else path
        if not there.exists():
            yield f"{path.name} links to {target}, which does not exist"
        elif heading and there.suffix == ".md" and heading not in headings(there.read_text() if file else text):
            yield f"{path.name} links to {target}, but there is no such heading"


def headings(text: str) -> set[str]:
    """The anchors of the headings, as forges make them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


RULES = (
    (upward_imports, "tunneld.proto.bad", "from tunneld.edge import tcp"),
    (upward_imports, "tunneld.pump", "def late():\n    from tunneld.links.state import PeerState"),
    (impure_imports, "tunneld.proto.bad", "import time"),
    (impure_imports, "tunneld.netcfg.plan", "from os import path"),
    (stray_pyroute2, "tunneld.lab.bad", "def late():\n    from pyroute2 import IPRoute"),
    (clocks_and_loose_tasks, "tunneld.pump", "import time\nnow = time.monotonic()"),
    (clocks_and_loose_tasks, "tunneld.pump", "import asyncio\nasyncio.create_task(f())"),
    (blanket_handlers, "tunneld.pump", "try:\n    f()\nexcept Exception:\n    pass"),
    (blanket_handlers, "tunneld.pump", "try:\n    f()\nexcept:\n    pass"),
    (wrapped_failures, "tunneld.pump", "try:\n    f()\nexcept* OSError as e:\n    raise e.exceptions[0]"),
    (missing_docstring, "tunneld.pump", "import this"),
    (too_long, "tunneld.pump", "\n" * 401),
    (too_long, "tunneld.pump", "def f():\n" + "    pass\n" * 60),
)


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_source_keeps(rule):
    assert [complaint for module in source_modules() for complaint in rule(module)] == []


@pytest.mark.parametrize(("rule", "name", "source"), RULES)
def test_a_breach_is_noticed(rule, name, source):
    assert list(rule(parse(name, source)))


def test_test_files_are_not_too_long_either():
    modules = [parse(name_of(path), path.read_text()) for path in python_files("tests")]
    assert [complaint for module in modules for complaint in too_long(module)] == []


def test_no_module_imports_itself_round_a_corner():
    graph = {module.name: {name for name in imports(module) if name in SOURCES} for module in source_modules()}
    assert cycle(graph) == []


def test_a_cycle_is_noticed():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are left when all that import nothing left are taken away, again and again, both ways."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        imported = set().union(*left.values())
        done = {name for name, targets in left.items() if not targets & left.keys() or name not in imported}
        if not done:
            return sorted(left)
        left = {name: targets - done for name, targets in left.items() if name not in done}


def test_every_module_has_its_test_file_and_every_test_file_its_module():
    modules = [name for name, path in SOURCES.items() if path.name != "__init__.py"]
    tests = [str(path.relative_to(ROOT)) for path in python_files("tests") if path.name.startswith("test_")]
    assert list(unpaired(modules, tests)) == []


def test_a_module_without_test_and_a_test_without_module_are_noticed():
    complaints = list(
        unpaired(["tunneld.pump", "tunneld.edge.tcp"], ["tests/test_pump.py", "tests/edge/test_tpc.py"])
    )
    assert complaints == [
        "tunneld.edge.tcp has no tests/edge/test_tcp.py",
        "tests/edge/test_tpc.py tests no module of its name",
    ]


def test_every_branch_of_proto_is_covered_by_its_own_tests(tmp_path):
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}

    def coverage(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coverage", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    tests = coverage(
        *("run", "--branch", "--source=tunneld.proto"),
        # Every line once is enough here; the tests run whole by themselves.
        *("-m", "pytest", "-p", "no:cacheprovider", "-m", "not long and not volume"),
        *("--hypothesis-profile", "sparse", "tests/proto"),
    )
    assert tests.returncode == 0, tests.stdout
    report = coverage("report", "--fail-under=100", "--show-missing", "--skip-covered")
    assert report.returncode == 0, report.stdout


def test_no_exception_outlives_its_reason():
    assert [name for name in (*UNTESTED_ALONE, *CLOCK_READERS) if name not in SOURCES] == []
    assert [name for name in OWN_SUBJECT if not (ROOT / name).exists()] == []
    assert [name for name in LONGER if not any(name.startswith(module) for module in SOURCES)] == []


def test_samples_and_unit_are_named_in_the_manual():
    samples = [path.name for directory in ("configs", "systemd") for path in sorted((ROOT / directory).iterdir())]
    manual = (ROOT / "docs/OPERATING.md").read_text()
    assert samples
    assert [name for name in samples if name not in manual] == []


def written_files() -> Iterator[Path]:
    top = (path for path in ROOT.iterdir() if path.name == ".ci" or not path.name.startswith("."))
    for entry in top:
        files = [entry] if entry.is_file() else (path for pattern in WRITTEN for path in entry.rglob(pattern))
        yield from (path for path in files if path.is_file())


def test_nothing_speaks_of_one_machine():
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in written_files()}
    assert {"README.md", "tunneld/pump.py", ".ci/run", "requirements/run.lock"} <= texts.keys()
    assert [complaint for name, text in texts.items() for complaint in local_matters(name, text)] == []


@pytest.mark.parametrize("line", ["see /wor~k/main", "--index-url https://pypi~.org/simple", "share~d/x.md"])
def test_a_word_of_one_machine_is_noticed(line):
    assert list(local_matters("file", line.replace("~", "")))


def test_links_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert [complaint for page in pages for complaint in dead_links(page, page.read_text())] == []


def test_a_dead_link_is_noticed():
    text = "# Top\n[a](none.md) [b](#top) [c](#bottom) [d](https://example.org/none)\n```\n[e](none.md)\n```\n"
    assert list(dead_links(ROOT / "README.md", text)) == [
        "README.md links to none.md, which does not exist",
        "README.md links to #bottom, but there is no such heading",
    ]
