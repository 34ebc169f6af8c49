"""No message has anyone install a package under our name, which on the index is not ours."""

import re
import tomllib
from pathlib import Path

from engine.errors import advise_extra

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PACKAGES = ("engine", "indexes", "schema", "serving", "bench", "loadtest")
OURS = re.compile(r"install [^\n]*\bsosie\[|pip install ['\"]?sosie\b")
SUFFIXES = {".py", ".md", ".j2", ".html", ".yaml", ".toml"}


def test_no_text_has_sosie_installed_by_its_name() -> None:
    folders = [ROOT / name for name in (*PACKAGES, "docs")]
    texts = [path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES]
    texts += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    named = [str(path) for path in texts if OURS.search(path.read_text(encoding="utf-8"))]
    assert not named


def test_every_hint_names_an_extra_and_is_made_as_the_readme_has_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = ",".join(re.findall(r"pip install -e '\.\[([\w,]+)\]'", readme)).split(",")
    assert "cpu" in shown
    assert set(shown) <= EXTRAS.keys()
    assert "pip install -e '.[cpu]'" in advise_extra("cpu")
    hints = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            source = path.read_text(encoding="utf-8")
            hints += re.findall(r"advise_extra\(['\"]([\w-]+)['\"]\)", source)
            if path.name != "errors.py":
                assert "pip install -e" not in source, path
    assert len(hints) > 10
    assert set(hints) <= EXTRAS.keys()
