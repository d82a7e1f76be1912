"""What becomes of a file that somebody uploads: by what it holds, and not by what it is called."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from catalogue.conftest import Visit
from catalogue.sounds import picture, sound, tagged

from encore.catalogue import uploads
from encore.catalogue.storage import Storage
from harness.databases import Databases

LIMIT = 1024**2


@pytest.fixture
def database_url(databases: Databases) -> str:
    """One kind is enough here: nothing of this depends on the database."""
    return databases.fresh("sqlite")


def kept(storage: Path) -> list[str]:
    """The files in the storage, by their suffixes; nothing may be left in `incoming`."""
    files = [path for path in storage.rglob("*") if path.is_file()]
    assert not [path for path in files if path.parent.name == "incoming"]
    return sorted(path.suffix for path in files)


async def upload(
    client: httpx2.AsyncClient,
    audio: bytes,
    *,
    status: int = 201,
    name: str = "a.wav",
    cover: bytes = b"",
    **fields: str,
) -> dict[str, Any]:
    files: dict[str, Any] = {"audio": (name, audio, "application/octet-stream")}
    if cover:
        files["cover"] = ("c.png", cover, "image/png")
    answer = await client.post("/api/tracks", files=files, data=fields)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    ("container", "options", "media_type"),
    [
        ("WAV", {}, "audio/wav"),
        ("FLAC", {}, "audio/flac"),
        ("OGG", {}, "audio/ogg"),
        ("OGG", {"subtype": "OPUS"}, "audio/ogg"),
        ("MP3", {}, "audio/mpeg"),
    ],
)
async def test_a_track_is_made_when_the_file_holds_sound(
    visit: Visit, storage: Path, container: str, options: dict[str, str], media_type: str
) -> None:
    cleo = await visit("cleo", is_creator=True)
    audio = sound(container, seconds=2.0, rate=24_000, **options)
    track = await upload(cleo, audio, name="../../etc/<b>passwd.svg", title="  Tide ", description="one\r\ntwo")
    assert (track["title"], track["description"], track["creator"]["username"]) == ("Tide", "one\ntwo", "cleo")
    assert (track["audio_type"], track["audio_bytes"]) == (media_type, len(audio))
    assert track["duration_s"] == pytest.approx(2.0, abs=0.2)
    got = await (await visit()).get(track["audio_url"])
    assert (got.status_code, got.headers["content-type"], got.content) == (200, media_type, audio)
    assert len(kept(storage)) == 1
    assert "passwd" not in str(next(path for path in storage.rglob("*") if path.is_file()))


async def test_the_waveform_follows_the_sound_when_it_is_asked_for(visit: Visit) -> None:
    cleo = await visit("cleo", is_creator=True)
    track = await upload(cleo, sound("WAV", seconds=30.0), title="Tide")
    peaks = (await cleo.get(track["peaks_url"])).json()
    highest, lowest = peaks["data"][1::2], peaks["data"][::2]
    assert 450 <= peaks["length"] == len(highest) <= 1000
    assert peaks["length"] * peaks["samples_per_pixel"] / peaks["sample_rate"] == pytest.approx(30.0, abs=0.1)
    assert highest[0] < 5 < 60 < highest[len(highest) // 2] < 68 < 120 < highest[-2]
    assert all(-128 <= low <= 0 <= high <= 127 for low, high in zip(lowest, highest, strict=True))


async def test_title_artist_and_cover_come_from_the_tags_when_the_form_has_none(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    title = "<script>alert(1)</script>\u202e\n\x07 night" + "!" * 600
    audio = tagged(sound("MP3", rate=24_000), title=title, artist="The\tBand", cover=picture())
    track = await upload(cleo, audio)
    assert track["title"] == ("<script>alert(1)</script> night" + "!" * 600)[:200]
    assert track["artist"] == "The Band"
    cover = await cleo.get(track["cover_url"])
    assert (cover.headers["content-type"], cover.content) == ("image/png", picture())
    assert kept(storage) == [".mp3", ".png"]
    blank = await upload(cleo, tagged(sound("MP3", rate=24_000), title="\u3164\u200b"), status=422)
    assert blank["code"] == "title_missing"
    told = await upload(cleo, audio, title="Day", artist="", cover=picture(3, 3))
    assert (told["title"], told["artist"]) == ("Day", "")
    assert (await cleo.get(told["cover_url"])).content == picture(3, 3)


async def test_the_tags_cover_is_left_out_when_it_is_no_picture(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    track = await upload(cleo, tagged(sound("MP3", rate=24_000), title="x", cover=b"<svg onload='alert(1)'/>"))
    assert track["cover_url"] is None
    assert kept(storage) == [".mp3"]


SHAM = {
    "a playlist": (b"#EXTM3U\nfile:///etc/passwd\nhttp://127.0.0.1/\n", 415),
    "a page": (b"<!doctype html><script>alert(1)</script>", 415),
    "a program": (b"MZ" + bytes(4000), 415),
    "an archive": (b"PK\x03\x04" + bytes(4000), 415),
    "a picture": (picture(), 415),
    "another RIFF": (b"RIFF\x24\0\0\0AVI LIST" + bytes(4000), 415),
    "a WAV by its head alone": (b"RIFF\xff\xff\xff\x7fWAVE" + bytes(range(256)) * 20, 422),
    "a FLAC by its head alone": (b"fLaC" + bytes(range(256)) * 20, 422),
    "an Ogg by its head alone": (b"OggS" + bytes(range(256)) * 20, 422),
    "an MP3 by its head alone": (b"ID3\x04\0\0\0\0\0\0<script>" + b"x" * 4000, 422),
    "nearly nothing": (b"fLaC", 422),
    "silence too short": (sound("WAV", seconds=0.01), 422),
    "an encoding no browser knows": (sound("WAV", subtype="MS_ADPCM"), 422),
    "AIFF": (sound("AIFF"), 415),
    "a playlist behind tags": (b"ID3\x04\0\0\0\0\0\0#EXTM3U\nhttp://127.0.0.1/\n" + bytes(400), 422),
}


async def test_nothing_is_kept_when_the_file_is_not_what_it_says(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    for what, (content, status) in SHAM.items():
        answer = await upload(cleo, content, status=status, title="x", name="song.mp3")
        assert answer["code"] in {"audio_type", "audio_broken"}, what
    assert kept(storage) == []
    assert (await cleo.get("/api/tracks")).json()["items"] == []


async def test_what_hangs_on_a_sound_is_harmless_when_it_is_fetched(visit: Visit) -> None:
    cleo = await visit("cleo", is_creator=True)
    audio = sound("WAV") + b"<html><script>alert(1)</script>PK\x03\x04"
    track = await upload(cleo, audio, title="both")
    got = await cleo.get(track["audio_url"])
    assert got.headers["content-type"] == "audio/wav"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]


async def test_a_cover_is_refused_when_it_is_no_picture_that_is_taken(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    for cover, status in (
        (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', 415),
        (b"GIF89a" + bytes(100), 415),
        (picture(5000, 1), 422),
        (picture()[:20], 422),
        (b"\xff\xd8\xff\xe0" + bytes(100), 422),
        (b"RIFF\0\0\0\0WEBPVP8X", 422),
        (picture() + bytes(6 * 1024**2), 413),
    ):
        await upload(cleo, sound(), status=status, title="x", cover=cover)
    assert kept(storage) == []


async def test_the_upload_ends_when_it_is_too_large(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    announced = await upload(cleo, sound("WAV") + bytes(8 * LIMIT), status=413, title="x")
    assert announced["code"] == "too_large"
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n' + sound("WAV")
        while sent < 2 * 1024**3:
            sent += 65536
            yield bytes(65536)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await cleo.post("/api/tracks", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert sent <= 2 * LIMIT
    assert kept(storage) == []


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n%s\r\n\r\n%s\r\n" % (head.encode(), content) for head, content in parts) + end


AUDIO = 'Content-Disposition: form-data; name="audio"; filename="a"'
TITLE = 'Content-Disposition: form-data; name="title"'


async def test_a_form_is_refused_when_it_is_broken_or_an_attack(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    field = 'Content-Disposition: form-data; name="f{}"'
    sane = ((AUDIO, sound()), (TITLE, b"x"))
    cases = {
        "not a form at all": (b"audio=x", 400),
        "no audio": (form((TITLE, b"x")), 422),
        "an empty audio": (form((AUDIO, b""), (TITLE, b"x")), 422),
        "two audios": (form(*sane, (AUDIO, sound())), 400),
        "a part without a name": (form(*sane, ("Content-Disposition: form-data", b"x")), 400),
        "a part without a head": (form(*sane, ("X: y", b"x")), 400),
        "no end": (form(*sane, end=b""), 400),
        "10,000 parts": (form(*sane, *((field.format(number), b"x") for number in range(10_000))), 413),
        "a field of 1 MB": (form(*sane, (field.format(1), bytes(1_000_000))), 413),
        "many headers": (form(*sane, ("\r\n".join(f"X{n}: y" for n in range(100)), b"x")), 400),
        "no UTF-8": (form((AUDIO, sound()), (TITLE, b"\xff\xfe")), 422),
        "a title with NUL": (form((AUDIO, sound()), (TITLE, b"a\0b")), 422),
        "no title": (form((AUDIO, sound())), 422),
        "a title too long": (form((AUDIO, sound()), (TITLE, b"x" * 201)), 422),
        "an album that is none": (form(*sane, ('Content-Disposition: form-data; name="album_id"', b"7")), 404),
        "an album that is no number": (form(*sane, ('Content-Disposition: form-data; name="album_id"', b"x")), 422),
    }
    for what, (body, status) in cases.items():
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = await cleo.post("/api/tracks", content=body, headers=headers)
        assert answer.status_code == status, (what, answer.text)
        assert set(answer.json()) == {"code", "detail"}
    for boundary, status in (("", 415), ("; boundary=", 415), ("; boundary=" + "b" * 5_000, 400)):
        headers = {"Content-Type": "multipart/form-data" + boundary}
        wrong = await cleo.post("/api/tracks", content=b"--b--", headers=headers)
        assert wrong.status_code == status
    assert kept(storage) == []


async def test_the_body_is_not_read_when_the_visitor_may_not_upload(visit: Visit, storage: Path) -> None:
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield form((AUDIO, sound()), (TITLE, b"x"))

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for client, status in ((await visit(), 401), (await visit("ann"), 403)):
        assert (await client.post("/api/tracks", content=body(), headers=headers)).status_code == status
    assert not read
    assert kept(storage) == []


async def test_the_file_is_deleted_when_the_client_goes_away(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)

    async def body() -> AsyncIterator[bytes]:
        yield form((AUDIO, sound()), end=b"")[:-100]
        raise httpx2.ReadError("the network broke")

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    with pytest.raises(httpx2.ReadError):
        await cleo.post("/api/tracks", content=body(), headers=headers)
    assert kept(storage) == []


async def test_the_upload_is_put_off_when_the_storage_cannot_be_written(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    storage.write_text("a file where the folder should be")
    answer = await upload(cleo, sound(), status=503, title="x")
    assert answer["code"] == "storage"
    album = (await cleo.post("/api/albums", json={"title": "x"})).json()["id"]
    put = await cleo.put(f"/api/albums/{album}/cover", content=picture(), headers={"Content-Type": "image/png"})
    assert (put.status_code, put.json()["code"]) == (503, "storage")


async def test_more_uploads_are_refused_when_enough_are_running(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    go_on = asyncio.Event()
    waiting = asyncio.Semaphore(0)

    async def slowly() -> AsyncIterator[bytes]:
        whole = form((AUDIO, sound()), (TITLE, b"x"))
        yield whole[:500]
        waiting.release()
        await go_on.wait()
        yield whole[500:]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    running = [
        asyncio.create_task(cleo.post("/api/tracks", content=slowly(), headers=headers))
        for _ in range(uploads.AT_ONCE_PER_USER)
    ]
    for _ in running:
        await waiting.acquire()
    refused = await cleo.post("/api/tracks", content=form((AUDIO, sound()), (TITLE, b"x")), headers=headers)
    cover = await cleo.put("/api/albums/1/cover", content=picture(), headers={"Content-Type": "image/png"})
    for answer in (refused, cover):
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_uploads")
        assert int(answer.headers["retry-after"]) > 0
    go_on.set()
    assert [answer.status_code for answer in await asyncio.gather(*running)] == [201] * len(running)
    assert len(kept(storage)) == len(running)


async def test_two_uploads_of_one_file_share_nothing_when_one_is_deleted(visit: Visit, storage: Path) -> None:
    cleo = await visit("cleo", is_creator=True)
    audio = sound()
    first, second = [await upload(cleo, audio, title=title) for title in ("one", "two")]
    assert (await cleo.delete(f"/api/tracks/{first['id']}")).status_code == 200
    got = await cleo.get(second["audio_url"])
    assert hashlib.sha256(got.content).digest() == hashlib.sha256(audio).digest()
    assert kept(storage) == [".flac"]


def test_what_uploads_left_behind_is_swept_when_it_is_old(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    left = storage.incoming()
    left.write_bytes(b"x")
    assert storage.sweep() == 0
    assert left.exists()
    assert storage.sweep(older_than_s=-10) == 1
    assert not left.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a.flac", "0" * 32 + ".svg", "0" * 32 + ".flac\0", ""])
def test_a_name_is_refused_when_the_storage_did_not_make_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError):
        Storage(tmp_path).path(name)
