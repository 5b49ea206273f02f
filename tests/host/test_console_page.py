"""What is seen and done by who opens a VM's console in Chromium, the VM on a remote host."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import libvirt
import pytest

from tests.browser import Browser, Tab, until
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_access import ctl
from tests.host.test_slices import guest
from tests.lab import Lab

BOOT_ID = "/proc/sys/kernel/random/boot_id"
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "locale": "zh-CN",
}
DESK = {"viewport": {"width": 1100, "height": 760}, "locale": "en-GB"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("console") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    alone = {**sqlite(lab.layout.dir / "node"), "CCFD_BROKER__URL": ""}
    with CcfdProcess(lab, alone) as process:
        yield process


def picture(lab: Lab, vm: str) -> bytes:
    """Ask the VM's host for its screen: a PNG."""
    connection = libvirt.open(lab.layout.libvirt_uri(lab.layout.compute[0]))
    try:
        stream = connection.newStream()
        kind = connection.lookupByUUIDString(vm).screenshot(stream, 0)
        assert kind == "image/png"
        taken = bytearray()
        stream.recvAll(lambda _stream, data, _: taken.extend(data), None)
        stream.finish()
        return bytes(taken)
    finally:
        connection.close()


async def test_a_vms_screen_is_seen_and_its_keyboard_is_there(lab: Lab, ccfd: CcfdProcess) -> None:
    machine = "name=web,image=tiny,flavor=tiny"
    await asyncio.to_thread(ctl, lab, "slice", "create", "demo", "--no-gateway", "--vm", machine)
    (document,) = (await asyncio.to_thread(ccfd.get, "/v1/slices/demo"))["vms"]
    vm: str = document["vm"]
    boot = await guest(lab, vm, f"cat {BOOT_ID}")

    async def opens() -> str:
        told = await asyncio.to_thread(ccfd.post, f"/v1/vms/{vm}/console")
        url: str = told["url"]
        return url

    async with Browser.started(lab.env["CCF_HTTP_URL"]) as browser:
        url = await opens()
        async with browser.tab(url, **DESK) as tab:
            await tab.says("#state", "Connected")
            assert "ticket" not in tab.page.url
            await shows_the_screen(lab, vm, tab)
            await takes_keys(lab, vm, tab)
            await works_without_a_mouse(tab)
            await is_told_why(browser, url)
            await restarts(lab, vm, tab, boot)
            assert tab.complaints == []
            async with browser.tab(await opens(), **PHONE) as phone:
                await phone.says("#state", "已连接")
                wide = "document.documentElement.scrollWidth <= innerWidth"
                assert await phone.page.evaluate(wide)
                assert await phone.text("#keyboard") == "键盘"
                await phone.page.tap("#keyboard")
                await phone.page.keyboard.insert_text("echo phone > /run/phone\n")
                await guest(lab, vm, "grep -x phone /run/phone")
                await ends_by_an_operator(lab, ccfd, phone)
    log = ccfd.log.read_text()
    assert url.partition("ticket=")[2] not in log


async def shows_the_screen(lab: Lab, vm: str, tab: Tab) -> None:
    """Compare with the host's own screenshot, until the cursor blinks in neither or in both."""

    async def compare() -> tuple[int, int]:
        return await tab.difference(await asyncio.to_thread(picture, lab, vm))

    _, lit = await until(compare, lambda found: found[0] == 0)
    assert lit > 500, "a dark screen proves nothing"


async def takes_keys(lab: Lab, vm: str, tab: Tab) -> None:
    assert await tab.focused() == "CANVAS"
    await tab.strike("echo Seen > /run/keys")
    await guest(lab, vm, "grep -x Seen /run/keys")


async def works_without_a_mouse(tab: Tab) -> None:
    """Leave the screen, walk along the buttons, type a text by way of the clipboard, go back."""
    await tab.page.keyboard.press("Control+Alt+Shift")
    assert await tab.focused() == "clipboard"
    for wanted in ("reset", "size", "full"):
        await tab.page.keyboard.press("Tab")
        assert await tab.focused() == wanted
    for _ in range(3):
        await tab.page.keyboard.press("Shift+Tab")
    await tab.page.keyboard.press("Enter")
    assert await tab.focused() == "text"
    await tab.page.keyboard.press("Escape")
    assert await tab.focused() == "clipboard"
    await tab.page.keyboard.press("Escape")
    assert await tab.focused() == "CANVAS"


async def is_told_why(browser: Browser, used: str) -> None:
    async with browser.tab(used, **DESK) as tab:
        await tab.says("#why", "This ticket has been used")
        assert await tab.text("#code") == "Code 4403"
        assert await tab.text("#state") == "Not connected"
    async with browser.tab(used.partition("?")[0], **DESK) as tab:
        await tab.says("#why", "This address opens nothing")


async def restarts(lab: Lab, vm: str, tab: Tab, boot: str) -> None:
    await tab.page.click("#reset")
    await guest(lab, vm, f'test "$(cat {BOOT_ID})" != {boot.strip()}')
    assert await tab.text("#state") == "Connected"


async def ends_by_an_operator(lab: Lab, ccfd: CcfdProcess, tab: Tab) -> None:
    for console in (await asyncio.to_thread(ccfd.get, "/v1/consoles"))["items"]:
        await asyncio.to_thread(ctl, lab, "console", "close", console["console"])
    await tab.says("#why", "管理员关闭了控制台")
    assert await tab.text("#code") == "代码 4410"
