"""Audio and covers as players and caches ask for them."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from catalogue.conftest import Visit
from catalogue.sounds import picture, sound

from encore.catalogue.ranges import NotSatisfiable, wanted_bytes
from harness.databases import Databases

AUDIO = sound("WAV", seconds=0.5)
SIZE = len(AUDIO)


@pytest.fixture
def database_url(databases: Databases) -> str:
    """One kind is enough here: nothing of this depends on the database."""
    return databases.fresh("sqlite")


@pytest_asyncio.fixture
async def cleo(visit: Visit) -> httpx2.AsyncClient:
    return await visit("cleo", is_creator=True)


@pytest_asyncio.fixture
async def track(cleo: httpx2.AsyncClient) -> dict[str, Any]:
    answer = await cleo.post("/api/tracks", files={"audio": ("a", AUDIO)}, data={"title": "Tide"})
    found: dict[str, Any] = answer.json()
    return found


RANGES = {
    "bytes=0-0": (0, 0),
    "bytes=0-499": (0, 499),
    "bytes=500-": (500, SIZE - 1),
    "bytes=-300": (SIZE - 300, SIZE - 1),
    "bytes=-999999999": (0, SIZE - 1),
    "Bytes = 10-20": (10, 20),
    f"bytes=0-{SIZE * 2}": (0, SIZE - 1),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE - 1),
}
WHOLE = (
    "bytes=", "bytes=-", "bytes=a-b", "bytes=5-1", "bytes", "pages=1-2", "bytes=1-2,5-9", "bytes=0-0,0-0",
    "bytes=+1-2", "bytes=1-2-3", "bytes=\u0661-2", "bytes=" + "9" * 30 + "-",
)  # fmt: skip
NONE = (f"bytes={SIZE}-", "bytes=999999999999-", "bytes=-0", "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2000, 2)))


async def test_a_player_gets_the_bytes_when_it_asks_for_a_range(
    cleo: httpx2.AsyncClient, track: dict[str, Any]
) -> None:
    for header, (first, last) in RANGES.items():
        got = await cleo.get(track["audio_url"], headers={"Range": header})
        assert got.status_code == 206, header
        assert got.headers["content-range"] == f"bytes {first}-{last}/{SIZE}", header
        assert got.content == AUDIO[first : last + 1], header
        assert int(got.headers["content-length"]) == len(got.content)
        head = await cleo.head(track["audio_url"], headers={"Range": header})
        assert (head.status_code, head.content) == (206, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


async def test_a_player_gets_everything_when_the_range_makes_no_sense(
    cleo: httpx2.AsyncClient, track: dict[str, Any]
) -> None:
    for header in WHOLE:
        got = await cleo.get(track["audio_url"], headers={b"Range": header.encode()})
        assert (got.status_code, got.content) == (200, AUDIO), header
        assert got.headers["accept-ranges"] == "bytes"


async def test_a_range_is_refused_when_it_is_outside_or_one_of_a_thousand(
    cleo: httpx2.AsyncClient, track: dict[str, Any]
) -> None:
    for header in NONE:
        got = await cleo.get(track["audio_url"], headers={"Range": header})
        assert (got.status_code, got.json()["code"]) == (416, "range_not_satisfiable"), header
        assert got.headers["content-range"] == f"bytes */{SIZE}"


async def test_a_range_counts_when_it_is_of_this_version(cleo: httpx2.AsyncClient, track: dict[str, Any]) -> None:
    whole = await cleo.get(track["audio_url"])
    etag, modified = whole.headers["etag"], whole.headers["last-modified"]
    for condition, status in ((etag, 206), (modified, 206), ('"other"', 200), (f"W/{etag}", 200), ("yesterday", 200)):
        headers = {"Range": "bytes=1-2", "If-Range": condition}
        assert (await cleo.get(track["audio_url"], headers=headers)).status_code == status, condition


async def test_nothing_is_sent_again_when_the_client_has_it(cleo: httpx2.AsyncClient, track: dict[str, Any]) -> None:
    for path in (track["audio_url"], track["peaks_url"]):
        first = await cleo.get(path)
        assert "immutable" in first.headers["cache-control"]
        for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}', "*"):
            again = await cleo.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        assert (await cleo.get(path, headers={"If-None-Match": '"x"'})).status_code == 200
        assert (await cleo.get(re.sub(r"\?.*", "", path))).headers["cache-control"] == "no-cache"


async def test_the_file_is_gone_when_the_storage_lost_it(
    cleo: httpx2.AsyncClient, track: dict[str, Any], storage: Any
) -> None:
    for path in storage.rglob("*.wav"):
        path.unlink()
    got = await cleo.get(track["audio_url"])
    assert (got.status_code, got.json()["code"]) == (404, "file_missing")


async def test_a_cover_replaces_the_one_before_when_it_is_put(cleo: httpx2.AsyncClient, storage: Any) -> None:
    album = (await cleo.post("/api/albums", json={"title": "Sea"})).json()
    assert album["cover_url"] is None
    assert (await cleo.get(f"/api/albums/{album['id']}/cover")).status_code == 404
    seen = []
    for width in (2, 3):
        put = await cleo.put(
            f"/api/albums/{album['id']}/cover", content=picture(width), headers={"Content-Type": "image/png"}
        )
        assert put.status_code == 200, put.text
        url = put.json()["cover_url"]
        assert (await cleo.get(url)).content == picture(width)
        assert (await cleo.head(url)).headers["content-type"] == "image/png"
        seen.append(url)
    assert len(set(seen)) == 2
    assert len(list(storage.rglob("*.png"))) == 1
    track = await cleo.post(
        "/api/tracks", files={"audio": ("a", AUDIO)}, data={"title": "x", "album_id": str(album["id"])}
    )
    assert track.json()["cover_url"] == seen[1]
    assert (await cleo.get(f"/api/tracks/{track.json()['id']}/cover")).content == picture(3)


async def test_a_cover_is_refused_when_it_is_none_or_not_ones_own(
    cleo: httpx2.AsyncClient, track: dict[str, Any], visit: Visit, storage: Any
) -> None:
    album = (await cleo.post("/api/albums", json={"title": "Sea"})).json()
    other, listener = await visit("carl", is_creator=True), await visit("ann")
    for path in (f"/api/albums/{album['id']}/cover", f"/api/tracks/{track['id']}/cover"):
        for client, content, status in (
            (cleo, b"<svg/>", 415),
            (cleo, b"", 415),
            (cleo, picture() + bytes(6 * 1024**2), 413),
            (other, picture(), 403),
            (listener, picture(), 403),
            (await visit(), picture(), 401),
        ):
            put = await client.put(path, content=content, headers={"Content-Type": "image/png"})
            assert put.status_code == status, (path, status, put.text)
    assert list(storage.rglob("*.png")) == []
    assert list(storage.rglob("*.part")) == []


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=-0"])
def test_no_range_fits_when_the_file_is_empty(header: str) -> None:
    with pytest.raises(NotSatisfiable):
        wanted_bytes({"range": header}, size=0, etag='"x"', modified="y")
