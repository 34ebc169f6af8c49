"""What is served at `/console` and `/docs`: files of our own, with headers that let in nothing
else."""

import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serving.console import routes
from serving.console.routes import POLICY, read_files

FILES = read_files()
PAGES = {"/console": FILES, "/docs": read_files("docs")}
MOST_PACKED_BYTES, MOST_BYTES = 115_000, 310_000
"""Of all views in all languages, as they travel and unpacked: as docs/console.md says."""


def texts() -> dict[str, str]:
    return {
        f"{page}/{path}": file.body.decode()
        for page, files in PAGES.items()
        for path, file in files.items()
    }


@pytest.mark.parametrize(
    ("page", "path"), [(page, path) for page, files in PAGES.items() for path in ("", "/", *files)]
)
def test_every_file_comes_without_a_key_and_with_strict_headers(
    service, page: str, path: str
) -> None:
    answer = service.ask("GET", f"{page}/{path}" if path.strip("/") else page + path, key=None)
    assert answer.status_code == 200
    assert answer.content == PAGES[page][path.strip("/") or "index.html"].body
    headers = answer.headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    names = [name.lower() for name, _ in headers.multi_items()]
    assert len(names) == len(set(names))


def test_the_policy_allows_nothing_but_what_the_console_needs() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data: blob:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "path",
    ["nothing.js", "..%2f..%2froutes.py", "../routes.py", "js", "js/", "index.html/", "%00", "é"],
)
def test_nothing_else_can_be_asked_for(service, page: str, path: str) -> None:
    answer = service.ask("GET", f"{page}/{path}", key=None)
    service.assert_refused(answer, 404, "REQUEST.ROUTE_UNKNOWN")


def test_who_unpacks_gzip_gets_the_same_files_smaller(service) -> None:
    packed = service.ask("GET", "/console", key=None, headers={"accept-encoding": "gzip"})
    plain = service.ask("GET", "/console", key=None, headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.content == plain.content == FILES["index.html"].body
    assert all(gzip.decompress(file.packed) == file.body for file in FILES.values())


def test_comments_do_not_travel_and_each_line_of_code_does_in_its_place() -> None:
    root = Path(routes.__file__).parent / "static"
    for path in root.rglob("*.js"):
        sent = FILES[path.relative_to(root).as_posix()].body.decode().splitlines()
        for line, kept in zip(path.read_text().splitlines(), sent, strict=True):
            is_comment = re.match(r" *(//|/\*\*| \*)", line)
            assert kept == ("" if is_comment else line), (path, line)


def test_the_whole_console_travels_light() -> None:
    assert sum(len(file.packed) for file in FILES.values()) < MOST_PACKED_BYTES
    assert sum(len(file.body) for file in FILES.values()) < MOST_BYTES


def test_nothing_comes_from_elsewhere() -> None:
    # The names of XML vocabularies are no addresses.
    for path, text in texts().items():
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path


def test_no_text_is_ever_made_markup() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|new Function"
        r"|setHTML|createContextualFragment|srcdoc|javascript:"
    )
    for path, text in texts().items():
        assert forbidden.search(text) is None, path


@pytest.mark.parametrize("files", PAGES.values(), ids=PAGES)
def test_the_page_has_no_inline_script_and_no_inline_style(files: Mapping[str, Any]) -> None:
    page = files["index.html"].body.decode()
    assert re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page) == []
    assert re.search(r"<style|\sstyle=|\son\w+=", page) is None


def test_the_key_is_kept_in_the_session_alone() -> None:
    for path, text in texts().items():
        kept = re.findall(r"(localStorage|sessionStorage|indexedDB|document\.cookie)", text)
        allowed = {"api.js": {"sessionStorage"}, "language.js": {"localStorage"},
                   "frame.js": {"localStorage"}}  # fmt: skip
        assert set(kept) <= allowed.get(path.removeprefix("/console/js/"), set()), path


def test_a_module_has_every_function_of_another_that_it_calls() -> None:
    declared = r"\b(?:function|const|let|class) (\w+)"
    scripts = [text for path, text in texts().items() if path.startswith("/console/js/")]
    exported = set(re.findall(rf"\bexport (?:async )?{declared}", "".join(scripts)))
    for text in scripts:
        imported = re.findall(r"\w+", " ".join(re.findall(r"\bimport \{([^}]*)\}", text)))
        called = set(re.findall(r"(?<![\w.\"`$-])(\w+)\(", text))
        assert called & exported <= {*re.findall(declared, text), *imported}
