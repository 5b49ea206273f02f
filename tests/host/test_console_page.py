"""What is seen and done by who opens a VM's console in Chromium, the VM on a remote host."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import libvirt
import pytest

from tests.browser import Browser, Tab, until
from tests.ccfd_process import CcfdProcess, sqlite
from tests.host.test_access import ctl
from tests.host.test_slices import guest
from tests.lab import Lab
from tests.lab.shell import LabError
from tests.rfb_viewer import RfbViewer

NOT_RUNNING = (4409, "the VM is not running")
DELETED = (4404, "the VM was deleted")
BOOT_ID = "/proc/sys/kernel/random/boot_id"
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "locale": "zh-CN",
}
DESK = {"viewport": {"width": 1100, "height": 760}, "locale": "en-GB"}

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab.up(tmp_path_factory.mktemp("console") / "lab", hosts=1)
    yield lab
    lab.down()


@pytest.fixture
def ccfd(lab: Lab) -> Iterator[CcfdProcess]:
    alone = {
        **sqlite(lab.layout.dir / "node"),
        "CCFD_BROKER__URL": "",
        "CCFD_CONSOLE__RECORD": "true",
        "CCFD_CONSOLE__RECORDINGS": str(recordings(lab)),
    }
    with CcfdProcess(lab, alone) as process:
        yield process


def recordings(lab: Lab) -> Path:
    return lab.layout.dir / "recordings"


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

    async def opens(kind: str = "vnc") -> str:
        told = await asyncio.to_thread(ccfd.post, f"/v1/vms/{vm}/console?type={kind}")
        url: str = told["url"]
        return url

    async with Browser.started(lab.env["CCF_HTTP_URL"]) as browser:
        url = await opens()
        async with browser.tab(url, **DESK) as tab:
            await tab.says("#state", "Connected · recorded")
            assert "ticket" not in tab.page.url
            await shows_the_screen(lab, vm, tab)
            async with browser.tab(await opens("serial"), **DESK) as serial:
                await serial.says("#state", "Connected")
                # Written before anybody looked.
                await serial.says(".xterm-rows", "BOOTED web")
                await takes_keys(tab, serial)
                await opens_in_a_terminal(lab, serial)
                assert serial.complaints == []
            await works_without_a_mouse(tab)
            await is_told_why(browser, url)
            await restarts(lab, vm, tab, boot)
            assert tab.complaints == []
            await comes_back_by_itself(ccfd, tab)
            async with browser.tab(await opens(), **PHONE) as phone:
                await phone.says("#state", "已连接")
                wide = "document.documentElement.scrollWidth <= innerWidth"
                assert await phone.page.evaluate(wide)
                assert await phone.text("#keyboard") == "键盘"
                await phone.page.tap("#keyboard")
                await until_heard(
                    lambda: phone.page.keyboard.insert_text("\necho phone > /run/phone\n"),
                    lambda: guest(lab, vm, "grep -x phone /run/phone", 10),
                )
                await ends_by_an_operator(lab, ccfd, phone)
        await is_played_back(lab, browser)
    await several_see_the_same_until_it_ends(lab, ccfd, vm)
    log = ccfd.log.read_text()
    assert url.partition("ticket=")[2] not in log


async def shows_the_screen(lab: Lab, vm: str, tab: Tab) -> None:
    """Compare with the host's own screenshot, until the cursor blinks in neither or in both."""

    async def compare() -> tuple[int, int]:
        return await tab.difference(await asyncio.to_thread(picture, lab, vm))

    _, lit = await until(compare, lambda found: found[0] == 0)
    assert lit > 500, "a dark screen proves nothing"


async def takes_keys(tab: Tab, serial: Tab) -> None:
    """Type on the screen what then comes over the serial line, and there what it answers itself."""
    assert await tab.focused() == "CANVAS"
    await tab.page.bring_to_front()

    async def strike() -> None:
        await tab.strike("")
        await tab.strike("echo Seen > /dev/ttyS0")

    await until_heard(strike, lambda: serial.says(".xterm-rows", "Seen", 10))
    await serial.page.bring_to_front()
    assert await serial.focused() == "TEXTAREA"
    await serial.page.keyboard.type("echo heard=$((40+2))\n")
    await serial.says(".xterm-rows", "heard=42")
    await tab.page.bring_to_front()


async def until_heard(
    strike: Callable[[], Awaitable[None]], heard: Callable[[], Awaitable[object]]
) -> None:
    """Type until it is heard: a VM's keyboard holds few keys, and a slow VM loses the others."""
    for left in reversed(range(8)):
        await strike()
        try:
            await heard()
        except (AssertionError, LabError):
            if not left:
                raise
        else:
            return


async def opens_in_a_terminal(lab: Lab, serial: Tab) -> None:
    """Open the same serial console by ccfctl, type, and leave."""
    person, program = os.openpty()
    argv = [".venv/bin/ccfctl", "--socket", lab.env["CCF_SOCKET"], "vm", "console", "demo/web"]
    with subprocess.Popen(argv, stdin=program, stdout=program, stderr=program) as process:
        await reads(person, b"leaves it")
        # What the others have seen comes first.
        await reads(person, b"heard=42")
        os.write(person, b"echo by=$((6*7))\r")
        await reads(person, b"by=42")
        await serial.says(".xterm-rows", "by=42")
        os.write(person, b"\x1d")
        assert await asyncio.to_thread(process.wait, 60) == 0
    os.close(person)
    os.close(program)


async def reads(descriptor: int, wanted: bytes) -> None:
    """Read until *wanted* comes."""
    seen = b""
    async with asyncio.timeout(90):
        while wanted not in seen:
            seen += await asyncio.to_thread(os.read, descriptor, 4096)


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
    assert await tab.text("#state") == "Connected · recorded"


async def comes_back_by_itself(ccfd: CcfdProcess, tab: Tab) -> None:
    """Stop ccfd in good order, then as the kernel would; look on as soon as it is back."""
    for end in (ccfd.stop, ccfd.kill):
        await asyncio.to_thread(end)
        await tab.says("#state", "Connection lost. Trying again")
        await asyncio.to_thread(ccfd.start)
        await tab.says("#state", "Connected · recorded")
    tab.complaints.clear()  # the browser tells of each try


async def several_see_the_same_until_it_ends(lab: Lab, ccfd: CcfdProcess, vm: str) -> None:
    """Look at one VM in threes, and be told by all of its ends why."""

    async def look(stack: AsyncExitStack, number: int) -> list[RfbViewer]:
        path = f"/v1/vms/{vm}/console"
        told = [await asyncio.to_thread(ccfd.post, path) for _ in range(number)]
        urls = [one["websocket_url"] for one in told]
        return [await stack.enter_async_context(RfbViewer.looking(url)) for url in urls]

    async with AsyncExitStack() as stack:
        viewers = await look(stack, 3)

        async def pictures() -> set[bytes]:
            return set(await asyncio.gather(*(viewer.picture() for viewer in viewers)))

        # But for the cursor, which blinks.
        (same,) = await until(pictures, lambda found: len(found) == 1)
        assert any(same), "a dark screen proves nothing"
        await asyncio.to_thread(ctl, lab, "slice", "stop", "demo")
        assert [await viewer.ended() for viewer in viewers] == [NOT_RUNNING] * 3
    await asyncio.to_thread(ctl, lab, "slice", "start", "demo")
    async with AsyncExitStack() as stack:
        (viewer,) = await look(stack, 1)
        await asyncio.to_thread(ctl, lab, "vm", "stop", "demo/web", "--force")
        assert await viewer.ended() == NOT_RUNNING
    await asyncio.to_thread(ctl, lab, "vm", "start", "demo/web")
    async with AsyncExitStack() as stack:
        (viewer,) = await look(stack, 1)
        await asyncio.to_thread(ctl, lab, "vm", "delete", "demo/web")
        assert await viewer.ended() == DELETED


async def is_played_back(lab: Lab, browser: Browser) -> None:
    """Have a page show what was recorded; the longest is that of the first tab."""
    files = sorted(recordings(lab).iterdir(), key=lambda file: file.stat().st_size)
    assert {file.suffix for file in files} == {".screen", ".cast"}
    film = next(file for file in reversed(files) if file.suffix == ".screen")
    async with browser.tab(f"{lab.env['CCF_HTTP_URL']}/console/play", **DESK) as tab:
        await tab.page.set_input_files("#file", film)
        await tab.says("#name", "web · demo")
        await until(lambda: tab.page.locator("#screen canvas").count(), lambda found: found == 1)
        await tab.page.evaluate(
            "const s = document.getElementById('seek'); s.value = s.max; s.oninput();"
        )
        lit = "document.querySelector('#screen canvas').toDataURL().length"
        await until(lambda: tab.page.evaluate(lit), lambda size: size > 5000)
        assert tab.complaints == []


async def ends_by_an_operator(lab: Lab, ccfd: CcfdProcess, tab: Tab) -> None:
    for console in (await asyncio.to_thread(ccfd.get, "/v1/consoles"))["items"]:
        await asyncio.to_thread(ctl, lab, "console", "close", console["console"])
    await tab.says("#why", "管理员关闭了控制台")
    assert await tab.text("#code") == "代码 4410"
