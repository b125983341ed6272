"""The site in a real browser. `make test-site` builds it and runs this."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tools.browser import browser
from tools.need import Missing

BUILD = Path(__file__).parents[1] / "build"
SITE, DECKS = BUILD / "site", sorted((BUILD / "slides").glob("*.html"))
PAGES = [str(page.relative_to(SITE)) for page in sorted(SITE.rglob("*.html"))]
PAGES = [page for page in PAGES if not page.startswith("_static")]
WIDTHS, SCHEMES = (390, 1280), ("light", "dark")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=BUILD)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page():
    try:
        with browser() as page:
            yield page
    except Missing as error:
        pytest.skip(str(error))


def test_every_page_is_there():
    assert len([p for p in PAGES if p.startswith("notebooks/")]) >= 9
    expected = {"index.html", "search.html", "CONTRIBUTING.html", "data/results/README.html"}
    assert expected | {"docs/library.html", "docs/teaching.html"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_page(address, page, name):
    page.look(1280)
    page.load(f"{address}site/{name}")
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith((address, "data:"))] == []
    shown = "[...document.querySelectorAll('h1')].filter(h => h.offsetParent)"
    assert page.ask(f"{shown}.length") == 1  # the theme keeps a second one for printing
    silent = "[...document.images].filter(i => !i.alt.trim()).map(i => i.src)"
    assert page.ask(silent) == []
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert page.ask(broken) == []
    formulas = "document.querySelectorAll('.math').length"
    assert page.ask(f"{formulas} == 0 || document.querySelectorAll('mjx-container').length > 0")
    assert page.ask("document.querySelectorAll('mjx-merror, [data-mjx-error]').length") == 0
    backgrounds = set()
    for scheme in SCHEMES:
        for width in WIDTHS:
            page.look(width, scheme=scheme)
            wide = page.ask("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{wide} pixels too wide at {width}: {page.ask(WIDEST)}"
        page.wait(f"document.documentElement.dataset.theme == '{scheme}'", seconds=9)
        backgrounds.add(page.ask("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2, "light and dark look the same"


WIDEST = """[...document.querySelectorAll('.bd-main *')]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 3).map(e => e.outerHTML.slice(0, 200))"""


def test_keyboard(address, page):
    page.look(1280)
    page.load(address + "site/notebooks/03_linear_merging.html")
    page.press("Tab")
    assert "Skip to main content" in page.ask("document.activeElement.textContent")
    seen = set()
    for _ in range(40):
        page.press("Tab")
        seen.add(page.ask("document.activeElement.outerHTML.slice(0, 200)"))
    assert len(seen) > 25  # the focus moves on and is caught nowhere
    only_mouse = "[onclick]:not(a, button, summary, input, label)"
    assert page.ask(f"document.querySelectorAll('{only_mouse}').length") == 0
    page.ask("document.querySelector('details.hide summary').focus()")
    page.press("Enter")
    page.wait("document.querySelector('details.hide').open")


def test_search_finds_border(address, page):
    page.load(address + "site/search.html?q=border")
    page.wait("document.querySelectorAll('#search-results li').length > 0")
    found = page.ask("document.querySelector('#search-results').textContent")
    assert "When are two layers one" in found


def test_every_lesson_has_a_deck():
    assert len(DECKS) >= 9


FULL = """new Promise(done => require(["reveal/dist/reveal.js"], reveal => {
  const bad = [], n = reveal.getTotalSlides();
  for (let i = 0; i < n; i++) {
    reveal.slide(i);
    const slide = reveal.getCurrentSlide(), words = slide.innerText.slice(0, 60);
    const below = slide.querySelector("p, li, table, pre, img");
    if (slide.scrollHeight > 720 || slide.scrollWidth > 1280 || !below)
      bad.push([i, slide.scrollHeight, slide.scrollWidth, words]);
  }
  reveal.slide(0);
  done([n, bad]);
}))"""


@pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)
def test_every_slide_fits_the_screen(address, page, deck):
    page.look(1280, 720)
    page.load(f"{address}slides/{deck.name}")
    page.wait("document.querySelector('.slides .present')")
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith((address, "data:"))] == []
    assert page.ask("[...document.images].filter(i => !i.alt.trim()).length") == 0
    number, bad = page.ask(FULL)
    assert number >= 10 and bad == []
