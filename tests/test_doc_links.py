"""What documents point to exists: files, headings, modules."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for folder in (ROOT, ROOT / "bench", ROOT / "docs", ROOT / "docs" / "decisions")
    for page in folder.glob("*.md")
)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([\w/.-]+(?:\.(?:py|js|html|css|json|toml|yml)|/))`")
PLACEHOLDER = re.compile(r"\b(?:X|NAME|000N_X|sosie)\.")
PACKAGES = ("engine", "indexes", "schema", "serving", "bench", "loadtest", "tests")


def read(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def list_anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", one.lower()) for one in headings)
    return {one.strip().replace(" ", "-") for one in plain}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in LINK.findall(read(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_is_named_exists(name: str) -> None:
    """By its path, or by the end of it."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    paths = [f"/{path.relative_to(ROOT)}" + "/" * path.is_dir() for path in files]
    named = {one for one in NAMED.findall(read(ROOT / name)) if not PLACEHOLDER.search(one)}
    missing = {
        one
        for one in named
        if not (ROOT / one).exists() and not any(path.endswith(f"/{one}") for path in paths)
    }
    assert missing == set()


def test_every_invariant_has_a_test_that_is_there() -> None:
    """The list of what Sosie promises: a test is renamed there, too, and none is dropped."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = page.partition("## Invariants")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!invariant|-)(.+?) \|.*\| (.+) \|$", section, re.MULTILINE)
    assert len(rows) >= 15
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", tests, re.MULTILINE))
    for invariant, named in rows:
        assert "test" in named, invariant
        assert set(re.findall(r"`(test_\w+)`", named)) <= defined, invariant


def test_every_decision_is_listed_in_order_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+) \|$", read(folder / "README.md"), re.M)
    pages = sorted(folder.glob("0*.md"))
    titles = [page.read_text(encoding="utf-8").partition("\n")[0] for page in pages]
    assert [(number, file) for number, file, _ in listed] == [(p.name[:4], p.name) for p in pages]
    assert [f"# {number} · {title}" for number, _, title in listed] == titles


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 220


def test_lines_of_npx_name_the_versions_that_ci_runs() -> None:
    packages = json.loads((ROOT / ".ci" / "clients" / "package.json").read_text(encoding="utf-8"))
    pages = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    found = re.findall(r"\bnpx (\S+)@(\S+) ", pages)
    assert len(found) == pages.count("npx ") == 2
    assert set(found) <= set(packages["dependencies"].items())
