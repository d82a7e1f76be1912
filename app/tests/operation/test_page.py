"""The plain live page: served whole, with nothing inline, and with no way for a message to become markup."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from encore.main import app
from encore.operation import pages

FOLDER = pages.FOLDER
FILES = sorted(path.name for path in FOLDER.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
DOCUMENTS = [name for name in FILES if name.endswith(".html")]


def text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


async def get(path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://site.example") as client:
        return await client.get(path)


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_served_with_its_type(name: str) -> None:
    answer = await get(f"/page/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == pages.TYPES[Path(name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_may_load_and_run_only_what_is_ours(path: str) -> None:
    answer = await get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self' ws://site.example" in policy


@pytest.mark.parametrize("path", ["/page/nope.js", "/page/pages.py", "/page/%2e%2e%2fpages.py", "/page/"])
async def test_nothing_else_is_served(path: str) -> None:
    assert (await get(path)).status_code == 404


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_holds_no_script_style_or_address_of_another_host(name: str) -> None:
    found = text(name)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", found)
    assert re.findall(r"<script[^>]*>(.*?)</script>", found, re.S) == [""]
    for address in re.findall(r'(?:src|href)="([^"]+)"', found):
        assert address.startswith(("/", "#"))
        if address.startswith("/page/"):
            assert address.removeprefix("/page/") in FILES


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_never_makes_markup_of_a_text(name: str) -> None:
    found = text(name)
    ways = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc")
    assert [way for way in ways if way in found] == []
    # The one place where HTML is parsed copies what it knows, and keeps nothing else.
    assert ("DOMParser" in found) is (name == "dom.js")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_imports_only_what_is_there(name: str) -> None:
    for imported in re.findall(r'from "([^"]+)"', text(name)):
        assert imported.removeprefix("./") in SCRIPTS
    names = re.findall(r"import {([^}]+)} from \"\./(\w+\.js)\"", text(name))
    for group, source in names:
        for one in (part.strip() for part in group.split(",")):
            assert re.search(rf"export (?:async )?(?:function|const|class) {one}\b", text(source)), f"{one} of {source}"


def test_the_sockets_that_the_page_opens_exist() -> None:
    from encore.operation.asyncapi import SOCKETS

    known = {re.sub(r"{\w+}", "", address) for socket in SOCKETS for address in socket.addresses}
    opened = {
        re.sub(r"\$\{\w+\}", "", path)
        for name in SCRIPTS
        for path in re.findall(r'site\.open\("\w+", ["`]([^"`]+)', text(name))
    }
    assert len(opened) >= 5
    assert opened <= known
