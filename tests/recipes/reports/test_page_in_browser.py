"""The page in a real browser, on a phone and on a desk, light and dark. Skipped, saying so, where there is none."""

from contextlib import contextmanager

import pytest

CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const luminance = color => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!["rgba(0, 0, 0, 0)", "transparent"].includes(color)) return color;
    }
    return "white";
  };
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (words.nextNode()) {
    const element = words.currentNode.parentElement;
    if (!words.currentNode.textContent.trim()) continue;
    const [low, high] = [getComputedStyle(element).color, behind(element)].map(luminance).sort((a, b) => a - b);
    found.push([(high + 0.05) / (low + 0.05), words.currentNode.textContent.trim().slice(0, 40)]);
  }
  return found;
}
"""
PICTURES = "() => Promise.all([...document.images].map(i => i.decode().then(() => [i.naturalWidth, i.clientWidth])))"
TABLES = "() => [...document.querySelectorAll('.scroll')].map(box => [box.clientWidth, box.scrollWidth])"


@contextmanager
def opened(browser, folder, **options):
    page = browser.new_page(**options)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "report.html").as_uri())
    yield page
    page.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1280, 900)])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_it_fits_its_pictures_are_there_and_its_text_is_readable(browser, written, width, height, scheme):
    size = {"width": width, "height": height}
    with opened(browser, written[0], viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = page.evaluate(PICTURES)
        assert len(pictures) == 2
        assert all(natural > 0 and 300 < shown <= width for natural, shown in pictures)
        contrasts = page.evaluate(CONTRAST)
        assert len(contrasts) > 100
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        boxes = page.evaluate(TABLES)
        assert len(boxes) == 3
        if width == 360:
            assert all(inner > box for box, inner in boxes)  # a wide table scrolls in its own box


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_printed_it_is_black_on_white_and_no_column_is_cut_off(browser, written):
    with opened(browser, written[0], viewport={"width": 720, "height": 1000}, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 720
        assert not page.locator("nav").is_visible()
