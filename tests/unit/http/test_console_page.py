"""What a browser is given for a console, before it has shown its ticket."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from ccfd.console import closing
from ccfd.console.files import OTHERS, OWN, PAGE, PLAYER, Files
from ccfd.http import console_page
from ccfd.http.api import errors

TICKET = "a-ticket-that-nobody-else-may-see"


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    for name in OTHERS:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"/* {name} */")
    (tmp_path / "novnc-1.7.0" / "LICENSE.txt").write_text("MPL")
    (tmp_path.parent / "secret.js").write_text("no")
    return tmp_path


@pytest.fixture
async def client(assets: Path) -> AsyncIterator[Any]:
    application = web.Application(middlewares=[errors])
    application.add_routes(console_page.routes(assets))
    async with TestClient(TestServer(application)) as asked:
        yield asked


async def test_the_page_gives_its_address_to_nobody_and_runs_only_what_is_served_here(
    client: Any,
) -> None:
    async with client.get(f"/console/a-vm?ticket={TICKET}") as answer:
        text = await answer.text()
        headers = answer.headers
    assert answer.status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert TICKET not in text
    # Nothing inline: the policy would forbid it.
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", text)
    async with client.get("/console/play") as answer:
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert 'id="file"' in await answer.text()
    async with client.get("/console/a-vm?type=serial") as answer:
        assert "style-src 'self' 'unsafe-inline'" in answer.headers["Content-Security-Policy"]


async def test_files_of_others_are_kept_for_good_and_ours_are_asked_for_anew(client: Any) -> None:
    async with client.get("/console/static/page.js") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        tag = answer.headers["ETag"]
    async with client.get("/console/static/page.js", headers={"If-None-Match": tag}) as answer:
        assert answer.status == 304
    for name in OTHERS:
        async with client.get(f"/console/static/{name}") as answer:
            assert answer.status == 200
            assert "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "../console_page.py",
        "%2e%2e/secret.js",
        "novnc-1.7.0/..%2f..%2f..%2fsecret.js",
        "/etc/x.js",
        "page.html",
        "novnc-1.7.0/LICENSE.txt",
        "novnc-1.7.0/core/none.js",
        "nothing.js",
        "novnc-1.7.0",
    ],
)
async def test_nothing_else_is_served(client: Any, path: str) -> None:
    url = URL(f"{client.make_url('/console/static/')}{path}", encoded=True)
    async with client.session.get(url) as answer:
        assert answer.status == 404


def test_the_page_asks_for_the_versions_that_are_installed() -> None:
    asked = {
        found
        for path in OWN.iterdir()
        for found in re.findall(r"[a-z]+-\d+\.\d+\.\d+/[\w/.]+", path.read_text())
    }
    assert set(OTHERS) <= asked
    installed = Path("tools/console-assets").read_text()
    for name in asked:
        assert name.partition("/")[0] in installed


def codes() -> set[str]:
    """Return the close codes of ccfd's own."""
    return {str(known.code) for known in vars(closing).values() if isinstance(known, closing.Close)}


def test_the_page_finds_its_words_in_both_languages() -> None:
    words = (OWN / "words.js").read_text()

    def keys(name: str) -> set[str]:
        table = words.partition(f"const {name} = {{")[2].partition("};")[0]
        return set(re.findall(r"^  (\w+):", table, re.MULTILINE))

    english = keys("ENGLISH")
    assert english == keys("CHINESE")
    assert keys("ENGLISH_REASONS") == keys("CHINESE_REASONS") >= codes()
    wanted = set[str]()
    for name in (PAGE, PLAYER, "page.js", "play.js"):
        text = (OWN / name).read_text()
        wanted |= set(re.findall(r'(?:data-word="|[^/]words\.)(\w+)', text))
    assert wanted <= english


def test_what_is_missing_is_named(assets: Path) -> None:
    files = Files.at(assets)
    assert files.missing() == []
    (assets / OTHERS[0]).unlink()
    assert files.missing() == [OTHERS[0]]
