"""A real browser without a window: what it makes of a page, as text, measurements and a picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# .ci/run installs the first one where none of them is there.
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome-stable", "google-chrome", "chromium-browser")
WITHIN = 90.0  # seconds, on a loaded machine
# Appended to a page: leaves what the browser knows of it in the page, where --dump-dom shows it. Its contrast is that
# of WCAG 2: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
PROBE = """
<script>
addEventListener("load", () => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const cards = [...document.querySelectorAll("SELECTOR")].map((card) => ({
    text: card.innerText,
    contrasts: [card, ...card.querySelectorAll("b, code")].map((e) => contrast(getComputedStyle(e).color, behind(e))),
    dots: [...card.querySelectorAll("span")].map((e) => contrast(getComputedStyle(e).color, behind(card))),
    bars: [...card.querySelectorAll(":scope > div > div")].map((e) => Math.round(e.getBoundingClientRect().width)),
    elements: [...new Set([...card.querySelectorAll("*")].map((e) => e.localName))].sort(),
  }));
  const known = { cards, attacked: window.attacked ?? null, height: document.documentElement.scrollHeight,
                  text: document.body.innerText };
  const found = document.createElement("script");
  found.type = "application/json";
  found.id = "probe";
  found.textContent = JSON.stringify(known).replaceAll("<", "\\\\u003c");
  document.body.append(found);
});
</script>
"""


@dataclass(frozen=True)
class Seen:
    """A page as a browser shows it.

    Attributes:
        text: what a person can read on it.
        cards: text, contrasts and widths of the elements that were asked for.
        attacked: what a script in the page has set ``window.attacked`` to.
        height: pixels.
        picture: a PNG.
    """

    text: str
    cards: list[dict[str, Any]]
    attacked: object
    height: int
    picture: Path


def find_browser(environ: Mapping[str, str] = os.environ) -> str:
    """The command of a browser. Without one the test is skipped, and in CI it fails."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    reason = "no browser here: apt-get install chromium-headless-shell, or google-chrome"
    if environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def look_at(page: str, selector: str, directory: Path, size: tuple[int, int]) -> Seen:
    """Open a page in a browser, which reaches no network, and take a picture of it.

    Args:
        page: its HTML.
        selector: the elements to measure.
        directory: for the page, the picture and what the browser keeps.
        size: of the window, in pixels.
    """
    browser = find_browser()
    source, picture = directory / "page.html", directory / "page.png"
    source.write_text(page.replace("</body>", PROBE.replace("SELECTOR", selector) + "</body>"), encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",  # root has none, and the page is ours
        "--disable-gpu",
        "--disable-dev-shm-usage",  # /dev/shm of a container has 64 MiB
        "--no-first-run",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        f"--user-data-dir={directory / 'profile'}",
        f"--window-size={size[0]},{size[1]}",
        f"--screenshot={picture}",
        "--dump-dom",
        source.as_uri(),
    ]
    found = re.search(r'<script type="application/json" id="probe">(.*?)</script>', _run(command, directory), re.DOTALL)
    assert found, "the browser has not run the page to its end"
    known = json.loads(found[1])
    return Seen(known["text"], known["cards"], known["attacked"], known["height"], picture)


def _run(command: list[str], directory: Path) -> str:
    """What it prints. It and all its processes are gone afterwards."""
    env = {**os.environ, "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            printed, said = process.communicate(timeout=WITHIN)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, said
    return printed
