"""The catalogue on two replicas: what is written at one is read at the other, with a broker, without, after it died."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from catalogue.sounds import picture, sound
from conftest import MakeSite

from harness.site import Person, Site, eventually

AUDIO = sound("WAV", seconds=20.0, rate=24_000)
PNG = {"Content-Type": "image/png"}


async def upload(person: Person, title: str, **fields: str) -> dict[str, Any]:
    files = {"audio": ("../x.wav", AUDIO, "audio/wav"), "cover": ("x.png", picture(), "image/png")}
    found: dict[str, Any] = await person.post("/api/tracks", status=201, files=files, data={"title": title, **fields})
    return found


async def listen(person: Person, track: dict[str, Any]) -> None:
    """Everything that a player does with a track, to the last byte."""
    whole = await person.http.get(track["audio_url"])
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, AUDIO, "audio/wav")
    part = await person.http.get(track["audio_url"], headers={"Range": f"bytes=100-{len(AUDIO)}"})
    assert (part.status_code, part.content) == (206, AUDIO[100:])
    head = await person.http.head(track["audio_url"], headers={"Range": "bytes=-7"})
    assert (head.status_code, head.headers["content-length"], head.content) == (206, "7", b"")
    again = await person.http.get(track["audio_url"], headers={"If-None-Match": whole.headers["etag"]})
    assert again.status_code == 304
    peaks = await person.get(track["peaks_url"])
    assert len(peaks["data"]) == 2 * peaks["length"] > 1000
    cover = await person.http.get(track["cover_url"])
    assert (cover.content, cover.headers["x-content-type-options"]) == (picture(), "nosniff")


async def change_everything(cleo: Person, guest: Person, album: dict[str, Any], track: dict[str, Any]) -> None:
    """Changes at cleo's replica, each seen at the guest's."""
    album_path, path = f"/api/albums/{album['id']}", f"/api/tracks/{track['id']}"
    await cleo.patch(album_path, {"title": "Sea and sand", "kind": "audiobook"})
    await cleo.patch(path, {"title": "Ebb", "description": "x"})
    await cleo.put(path + "/cover", content=picture(3), headers=PNG)
    await cleo.put(album_path + "/cover", content=picture(4), headers=PNG)
    seen = await guest.get(album_path)
    assert (seen["title"], seen["kind"], seen["tracks"][0]["title"]) == ("Sea and sand", "audiobook", "Ebb")
    for url, width in ((seen["cover_url"], 4), (seen["tracks"][0]["cover_url"], 3)):
        assert (await guest.http.get(url)).content == picture(width)
    assert [found["id"] for found in (await guest.get("/api/tracks?q=EBB&creator=cleo&sort=plays"))["items"]] == [
        track["id"]
    ]
    assert [found["id"] for found in (await guest.get("/api/albums?q=sand&kind=audiobook"))["items"]] == [album["id"]]
    await cleo.delete(album_path, status=409)
    await cleo.delete(path)
    await cleo.delete(album_path)
    for gone in (path, path + "/audio", path + "/peaks", path + "/cover", album_path, album_path + "/cover"):
        await guest.get(gone, status=404)


@pytest.mark.parametrize(("kind", "broker"), [("sqlite", True), ("postgres", False)])
async def test_the_other_replica_has_it_when_something_changes(make_site: MakeSite, kind: str, broker: bool) -> None:
    site = await make_site(kind, broker=broker)
    cleo, ann = await site.person("cleo", roles=["creator"]), await site.person("ann")
    guest = site.guest(replica=1)
    album = await cleo.post("/api/albums", {"title": "Sea"}, status=201)
    track = await upload(cleo, "Tide", album_id=str(album["id"]))
    assert await guest.get(f"/api/albums/{album['id']}") == album | {
        "track_count": 1,
        "tracks": [track],
        "updated_at": (await cleo.get(f"/api/albums/{album['id']}"))["updated_at"],
    }
    assert await guest.get(f"/api/tracks/{track['id']}") == track
    await listen(guest, track)
    path = f"/api/tracks/{track['id']}"
    assert (await ann.post(path + "/play"))["counted"] is True
    assert (await ann.at(1).post(path + "/play")) == {"counted": False, "play_count": 1}
    kept = await ann.put(path + "/position", {"position_s": 7.5})
    if site.broker is not None:
        site.broker.kill()
    assert await ann.at(1).get(path + "/position") == kept
    assert (await ann.at(1).get("/api/me/positions"))["items"][0]["track"]["title"] == "Tide"
    second = await upload(cleo.at(1), "Harbour")
    await listen(site.guest(), second)
    await change_everything(cleo.at(1), site.guest(), album, track)
    assert stored(site) == [".png", ".wav"]
    if kind == "sqlite":
        await check_attacks(site, cleo)


async def check_attacks(site: Site, cleo: Person) -> None:
    """On the wire: nothing is read that is too much, and nothing stays of what breaks off."""
    head = (
        f"POST /api/tracks HTTP/1.1\r\nHost: 127.0.0.1:{site.ports[0]}\r\nCookie: encore_session={cleo.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
    )
    begin = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n' + AUDIO[:100_000]
    reader, writer = await asyncio.open_connection("127.0.0.1", site.ports[0])
    writer.write(f"{head}Content-Length: {2 * 1024**3}\r\n\r\n".encode() + begin)
    async with asyncio.timeout(30):
        assert b" 413 " in await reader.readline()
    writer.close()
    _, writer = await asyncio.open_connection("127.0.0.1", site.ports[0])
    writer.write(f"{head}Content-Length: {1024**2}\r\n\r\n".encode() + begin)
    await writer.drain()
    await eventually(lambda: parts(site), lambda found: len(found) == 1)
    writer.close()
    await eventually(lambda: parts(site), lambda found: not found)
    assert stored(site) == [".png", ".wav"]
    assert "Traceback" not in site.log(0)


async def parts(site: Site) -> list[Path]:
    return list(site.storage.rglob("*.part"))


def stored(site: Site) -> list[str]:
    return sorted(path.suffix for path in site.storage.rglob("*") if path.is_file())
