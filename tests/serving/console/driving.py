"""A person in front of the console: signs in, fills in, looks; and what must hold of each view."""

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.serving.console.conftest import Site

SCREENSHOTS = os.environ.get("CONSOLE_SCREENSHOTS")
"""A folder to keep a picture of each view in; none are made without it."""
LEFT_IN_ENGLISH = """() => {
  const isOther = (node) => node.closest("[translate=no], [lang=en], script, noscript");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    if (!isOther(walker.currentNode.parentElement)) found.push(walker.currentNode.data);
  }
  for (const node of document.querySelectorAll("[aria-label], [alt], [placeholder]")) {
    if (!isOther(node)) found.push(node.ariaLabel, node.alt, node.placeholder);
  }
  return found.filter(Boolean).join("\\n");
}"""
BROKEN_LAYOUT = """() => {
  const scrolls = (node) => /auto|scroll/.test(getComputedStyle(node).overflowX);
  const isCut = (node) => {
    const { overflowX, textOverflow } = getComputedStyle(node);
    const hides = /hidden|clip/.test(overflowX) && textOverflow !== "ellipsis";
    return hides && node.clientWidth > 1 && node.scrollWidth > node.clientWidth + 1;
  };
  const found = [];
  const page = document.documentElement;
  if (page.scrollWidth > innerWidth) found.push(`the page is ${page.scrollWidth} px wide`);
  if (page.scrollHeight > 12000) found.push(`the page is ${page.scrollHeight} px high`);
  for (const node of document.querySelectorAll("main *, dialog *")) {
    if (node.closest(".face-frame, svg, input, select, textarea")) continue;
    let box = node;
    while (box && !scrolls(box)) box = box.parentElement;
    if (isCut(node)) found.push(`${node.tagName}.${node.className} cuts what it holds`);
    if (!box && node.getBoundingClientRect().right > innerWidth + 1)
      found.push(`${node.tagName}.${node.className} ends outside of the page`);
  }
  return found;
}"""
RAW_VALUE = re.compile(r"\d\.\d{5,}|\[['\"]|\bNone\b|\bundefined\b|\bNaN\b|\[object |\bnull\b")
STORED = "() => [Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
WIDTHS_PX = (390, 1280)
SAME_EVERYWHERE = {"API", "JPEG", "PNG", "WebP", "MB", "kB", "Aadhaar", "blue", "red", "PM", "AM"}


@dataclass
class Visitor:
    """One tab; `faults` are the errors that its console has shown."""

    site: Site
    page: Page
    faults: list[str] = field(default_factory=list)
    scheme: Literal["light", "dark"] = "light"

    def sign_in(self, name: str) -> None:
        self.page.goto(f"{self.site.url}/console")
        self.page.get_by_label("API key").fill(self.site.keys[name])
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("navigation")).to_be_visible()

    def open(self, view: str) -> None:
        link = self.page.get_by_role("navigation").get_by_role("link", name=view, exact=True)
        place = link.get_attribute("data-view")
        assert place is not None
        link.click()
        # The heading of the view before must not be taken for this one's.
        expect(self.page.get_by_role("main")).to_have_attribute("data-view", place)
        self.expect_heading()

    def expect_heading(self, text: str | None = None) -> None:
        heading = self.page.get_by_role("heading", level=1)
        expect(heading).to_be_visible()
        if text is not None:
            expect(heading).to_contain_text(text)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def fill(self, **values: str) -> None:
        """Fields by their names in the form."""
        for name, value in values.items():
            place = self.page.locator(f"[name={name}]")
            if place.evaluate("node => node.tagName") == "SELECT":
                place.select_option(value)
            else:
                place.fill(value)

    def tick(self, label: str) -> None:
        self.page.get_by_role("checkbox", name=label).check()

    def choose(self, label: str, photograph: Path) -> None:
        group = self.page.get_by_role("group", name=label)
        group.locator("input[type=file]").set_input_files(photograph)
        expect(group.get_by_role("img")).to_be_visible()

    def take_now(self) -> None:
        """The photograph was taken at this moment, as the page's clock has it."""
        field_ = self.page.locator("[name=captured_at]")
        now = datetime.now(UTC).replace(tzinfo=None)
        field_.fill(now.isoformat(timespec="seconds"))

    def row(self, *words: str) -> Locator:
        found = self.page.get_by_role("row")
        for word in words:
            found = found.filter(has_text=word)
        return found

    def check(self, name: str) -> None:
        """No serious fault of accessibility, no error in the console; a picture where asked."""
        result = Axe().run(self.page, options={"resultTypes": ["violations"]})
        grave = [
            (one["id"], [node["target"] for node in one["nodes"]])
            for one in result.response["violations"]
            if one["impact"] in {"serious", "critical"}
        ]
        assert grave == [], name
        assert self.faults == [], name
        shown = self.page.inner_text("main")
        assert RAW_VALUE.findall(shown) == [], (name, shown)
        self.check_layout(name)
        if SCREENSHOTS:
            self.picture(name)

    def check_layout(self, name: str) -> None:
        """On a telephone and on a screen, nothing is cut and the page has an end."""
        self.check_widths(name)
        # Without motion the colours change at once.
        self.page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        pale = Axe().run(self.page, options={"runOnly": ["color-contrast"]})
        found = [
            (node["target"], [any_["data"] for any_ in node["any"]])
            for one in pale.response["violations"]
            for node in one["nodes"]
        ]
        assert found == [], (name, "dark")
        self.page.emulate_media(color_scheme=self.scheme, reduced_motion="no-preference")

    def check_widths(self, name: str) -> None:
        size = self.page.viewport_size
        assert size is not None
        for width_px in WIDTHS_PX:
            self.page.set_viewport_size({"width": width_px, "height": size["height"]})
            broken = self.page.evaluate(BROKEN_LAYOUT)
            assert broken == [], (name, width_px)
        self.page.set_viewport_size(size)

    def picture(self, name: str) -> None:
        """Keeps a picture of the view; no photograph of anybody is in it."""
        source = f"data:image/png;base64,{draw_face()}"
        self.page.evaluate(
            """async (source) => {
              const drawn = document.querySelectorAll("main svg image");
              drawn.forEach((image) => image.setAttribute("href", source));
              const shown = document.querySelectorAll("main img, dialog img");
              await Promise.all([...shown].map((img) => ((img.src = source), img.decode())));
            }""",
            source,
        )
        is_whole = self.page.locator("dialog").count() == 0
        shot = Image.open(BytesIO(self.page.screenshot(full_page=is_whole)))
        # A palette is enough for flat colours, and a third of the bytes.
        shot.convert("RGB").quantize(96).save(f"{SCREENSHOTS}/console-{name}.png", optimize=True)

    def speak(self, language: str) -> None:
        self.page.locator("#language").select_option(language)
        self.expect_language(language)
        self.expect_heading()

    def check_languages(self, name: str) -> None:
        """The view in Chinese and Korean, dark: nothing left in English, nothing cut."""
        self.page.emulate_media(color_scheme="dark")
        for language in ("zh", "ko"):
            self.speak(language)
            left = self.words_left_in_english()
            assert not left, (name, language, left)
            self.check_widths(f"{name}-{language}")
        self.speak("en")
        self.page.emulate_media(color_scheme=self.scheme)

    def expect_language(self, code: str) -> None:
        expect(self.page.locator("html")).to_have_attribute("lang", re.compile(f"^{code}"))

    def words_left_in_english(self) -> set[str]:
        text = self.page.evaluate(LEFT_IN_ENGLISH)
        return set(re.findall(r"[A-Za-z]{2,}", text)) - SAME_EVERYWHERE


@contextmanager
def visiting(
    browser: Browser, site: Site, scheme: Literal["light", "dark"] = "light"
) -> Iterator[Visitor]:
    """A new tab, without a key."""
    context = browser.new_context(
        locale="en-GB",
        timezone_id="UTC",
        viewport={"width": 1280, "height": 800},
        color_scheme=scheme,
        permissions=["camera"],
    )
    context.set_default_timeout(10_000)
    page = context.new_page()
    visitor = Visitor(site, page, scheme=scheme)

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            visitor.faults.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: visitor.faults.append(str(error)))
    try:
        yield visitor
    finally:
        context.close()


def draw_face() -> str:
    """A drawn face, PNG in base64."""
    picture = Image.new("RGB", (336, 336), (205, 216, 214))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((30, 235, 306, 560), fill=(70, 96, 110))
    pen.ellipse((78, 40, 258, 305), fill=(232, 196, 164))
    pen.pieslice((72, 18, 264, 228), 180, 360, fill=(58, 44, 40))
    for left in (120, 190):
        pen.ellipse((left, 150, left + 24, 168), fill="white")
        pen.ellipse((left + 6, 151, left + 18, 167), fill=(40, 40, 40))
    pen.arc((135, 205, 201, 250), 20, 160, fill=(150, 70, 70), width=5)
    file = BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
