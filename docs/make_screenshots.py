"""Takes the pictures of a report for README and docs: python docs/make_screenshots.py runs/<name>

The run is that of `make demo`. Its report is written anew into a temporary folder, and headless Chromium
takes what a reader sees first: at a desk and on a phone. It is not part of `make docs`, because Chromium's
version and the machine's fonts change the pixels.
"""

# ruff: noqa: E402, the source root is put on sys.path before the package is imported

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

from PIL import Image

from isentropic.metrics.report import write_report
from isentropic.metrics.report.find import is_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--virtual-time-budget=10000", "--blink-settings=preferredColorScheme=1",
)  # fmt: skip
# Width and height of the screen.
PICTURES = {"report.png": (1366, 900), "report_phone.png": (390, 844)}
NARROWEST = 500  # Chromium makes no window narrower; a frame may be
COLOURS = 128
LARGEST = 200_000  # bytes: a picture in git stays in every clone
FRAME = (
    "<!doctype html><body style='margin:0'>"
    "<iframe src='{page}' style='border:0;width:{width}px;height:{height}px'></iframe>"
)


def take(browser: str, page: Path, size: tuple[int, int]) -> Image.Image:
    """Takes the first screen of a page at a window's size, in the light palette."""
    width, height = size
    folder = page.parent
    host = folder / f"frame_{width}.html"
    host.write_text(FRAME.format(page=page.name, width=width, height=height), encoding="utf-8")
    shot = folder / f"shot_{width}.png"
    command = [
        browser,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, NARROWEST)},{height}",
        f"--screenshot={shot}",
        host.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        return image.convert("RGB").crop((0, 0, width, height))


def packed(image: Image.Image) -> bytes:
    """Returns the picture as a PNG with a palette.

    Raises:
        ValueError: it is larger than LARGEST.
    """
    data = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
    if len(data.getvalue()) > LARGEST:
        raise ValueError(
            f"The picture of {image.width} x {image.height} pixels has {len(data.getvalue())} bytes; "
            f"{LARGEST} are allowed. Take a lower screen (PICTURES) or fewer COLOURS."
        )
    return data.getvalue()


def refused(why: str) -> int:
    """Prints why nothing was done; returns the exit code."""
    print(why, file=sys.stderr)
    return 2


def main(arguments: list[str]) -> int:
    """Writes both pictures into docs/; returns the exit code."""
    run = Path(arguments[0]) if len(arguments) == 1 else None
    if run is None or not is_run(run):
        return refused(f"Give one run folder, runs/<name> of `make demo`; got: {arguments}.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return refused(
            f"None of {', '.join(BROWSERS)} is on PATH. Install one (Debian: apt-get install chromium)."
        )
    with tempfile.TemporaryDirectory() as folder:
        try:
            page = write_report([run], Path(folder) / "page.html")
            taken = {name: packed(take(browser, page, size)) for name, size in PICTURES.items()}
        except ValueError as error:
            return refused(str(error))
    for name, data in taken.items():
        (ROOT / "docs" / name).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
