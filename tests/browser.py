"""A browser that nobody sees: Debian's Chromium."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser as Chromium
from playwright.async_api import ConsoleMessage, Page, async_playwright

SHIFTED = {">": "Period", "_": "Minus", "|": "Backslash", "&": "Digit7", '"': "Quote"}
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)
WITHIN = 90.0

SAME = """async (png) => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = document.querySelector("#screen canvas");
  if (canvas.width !== image.width || canvas.height !== image.height) {
    return [-1, 0];
  }
  const drawn = new OffscreenCanvas(image.width, image.height).getContext("2d");
  drawn.drawImage(image, 0, 0);
  const wanted = drawn.getImageData(0, 0, image.width, image.height).data;
  const shown = canvas.getContext("2d").getImageData(0, 0, image.width, image.height).data;
  let differ = 0;
  let lit = 0;
  for (let i = 0; i < wanted.length; i += 4) {
    if (wanted[i] + wanted[i + 1] + wanted[i + 2] > 96) lit += 1;
    if ([0, 1, 2].some((c) => Math.abs(wanted[i + c] - shown[i + c]) > 8)) differ += 1;
  }
  return [differ, lit];
}"""
"""Compares the page's screen with a picture: how many pixels differ, and how many are not dark."""

OUR_OWN_LOOKS = "Canvas2D: Multiple readback operations"
"""Chromium's advice on how a screen that `SAME` reads several times would be read faster."""


@dataclass
class Tab:
    """A page, and what the browser complained about in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def hear(self, said: ConsoleMessage) -> None:
        """Take what the browser says about the page."""
        if not said.text.startswith(OUR_OWN_LOOKS):
            self.complaints.append(f"{said.type}: {said.text}")

    async def text(self, selector: str) -> str:
        """Return the words of an element."""
        return (await self.page.locator(selector).inner_text()).strip()

    async def says(self, selector: str, wanted: str, within: float = WITHIN) -> None:
        """Wait until an element says *wanted*; the page's policy forbids Playwright's own way."""
        await until(lambda: self.text(selector), lambda said: wanted in said, within)

    async def focused(self) -> str:
        """Return the id of what has the focus, or its tag's name."""
        found: str = await self.page.evaluate(
            "document.activeElement.id || document.activeElement.tagName"
        )
        return found

    async def strike(self, line: str) -> None:
        """Strike a line's keys, and Enter. Not too fast: a VM's keyboard holds few."""
        for character in line:
            key = SHIFTED.get(character, character)
            shift = character in SHIFTED or character.isupper()
            await self.page.keyboard.press(f"Shift+{key}" if shift else key, delay=5)
            await asyncio.sleep(0.02)
        await self.page.keyboard.press("Enter")

    async def difference(self, png: bytes) -> tuple[int, int]:
        """Compare the VM's screen with a picture: (pixels that differ, pixels that are lit)."""
        differ, lit = await self.page.evaluate(SAME, base64.b64encode(png).decode())
        return differ, lit


class Browser:
    """Opens tabs, each with a memory of its own."""

    def __init__(self, chromium: Chromium) -> None:
        self._chromium = chromium

    @classmethod
    @asynccontextmanager
    async def started(cls, *origins: str) -> AsyncIterator[Browser]:
        """Start it; pages of *origins* count as if they came by https."""
        trusted = f"--unsafely-treat-insecure-origin-as-secure={','.join(origins)}"
        async with async_playwright() as playwright:
            chromium = await playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=[*QUIET, trusted]
            )
            try:
                yield cls(chromium)
            finally:
                await chromium.close()

    @asynccontextmanager
    async def tab(self, url: str, **device: Any) -> AsyncIterator[Tab]:
        """Open a page, on a *device* of a size, language and so on."""
        context = await self._chromium.new_context(**device)
        try:
            tab = Tab(await context.new_page())
            tab.page.on("console", tab.hear)
            tab.page.on("pageerror", lambda error: tab.complaints.append(f"error: {error}"))
            await tab.page.goto(url)
            yield tab
        finally:
            await context.close()


async def until(
    ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], within: float = WITHIN
) -> Any:
    """Ask until the answer is the one that is wanted; return it."""
    end = time.monotonic() + within
    while True:
        found = await ask()
        if wanted(found):
            return found
        assert time.monotonic() < end, f"still {found!r}"
        await asyncio.sleep(0.1)
