"""The pictures of a report: their sizes, and that the script takes what a screen of that width shows."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script(docs_script):
    return docs_script("make_screenshots")


def test_the_pictures_are_those_of_the_script_and_small(script):
    pages = "".join(path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    for name, size in script.PICTURES.items():
        path = ROOT / "docs" / name
        with Image.open(path) as image:
            assert image.size == size
        assert path.stat().st_size < 200_000
        assert name in pages


def test_a_picture_that_is_too_large_for_git_is_refused(script):
    noise = Image.frombytes("RGB", (800, 600), os.urandom(800 * 600 * 3))
    with pytest.raises(ValueError, match=r"800 x 600 pixels has \d+ bytes; 200000 are allowed"):
        script.packed(noise)


def test_a_narrow_screen_is_as_narrow_as_it_says(script, tmp_path):
    """A browser's window has a least width; a page in it must not see that one."""
    browser = next(filter(None, map(shutil.which, script.BROWSERS)), None)
    if browser is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'><style>"
        "html { background: rgb(0, 0, 255) } "
        "@media (width: 390px) { html { background: rgb(255, 0, 0) } }</style>"
    )
    image = script.take(browser, page, (390, 300))
    assert image.size == (390, 300)
    assert image.getcolors() == [(390 * 300, (255, 0, 0))]
