"""One module reads the environment; nothing below serving knows the user's home."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
READER = "serving/settings/settings.py"
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def find_uses(source: str, names: set[str]) -> set[str]:
    """Those of the names that a module takes from `os`, or asks a path or a class for."""
    found = set[str]()
    if not any(name in source for name in names):
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module in {"os", "os.path", "posix"}:
            found.update(alias.name for alias in node.names)
    return found & names


def modules(*packages: str) -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in packages
        for path in (ROOT / package).rglob("*.py")
    }


def test_only_the_settings_read_the_environment() -> None:
    sources = modules("schema", "engine", "indexes", "serving")
    readers = {name for name, source in sources.items() if find_uses(source, ENVIRONMENT)}
    assert readers == {READER}


def test_nothing_below_serving_uses_the_users_home() -> None:
    # `home` alone is an ordinary word: only asked of the class is it the user's.
    for name, source in modules("schema", "engine", "indexes").items():
        assert "Path.home(" not in source, name
        assert not find_uses(source, {"expanduser"}), name
        assert "platformdirs" not in source, name
