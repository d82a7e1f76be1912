"""The parts of a journey about people and what they listen to: accounts, the catalogue, the site's own pages."""

from __future__ import annotations

from typing import Any

from catalogue.sounds import picture, sound
from journeys.stage import PASSWORD, Stage

from harness.site import Json

__all__ = ["accounts", "catalogue", "operation"]


async def accounts(stage: Stage) -> None:
    site, ada = stage.site, stage.ada
    dora, again = site.guest(), site.guest(replica=1)
    account = {"username": "dora", "email": "dora@example.org", "password": PASSWORD}
    assert (await dora.post("/api/auth/signup", account, status=201))["username"] == "dora"
    assert (await dora.get("/api/auth/me"))["username"] == "dora"
    credentials = {"username": "Dora", "password": PASSWORD}
    await again.post("/api/auth/login", credentials)
    assert len((await again.get("/api/auth/sessions"))["items"]) == 2
    if not stage.linked and site.broker is not None:
        await dora.post("/api/auth/ws-ticket", status=503)  # they are in the broker
    elif stage.linked:
        ticket = (await dora.post("/api/auth/ws-ticket"))["ticket"]
        async with site.guest(replica=1).socket(f"/ws/book-requests?ticket={ticket}") as socket:
            assert await socket.heard() == []
        async with site.guest().socket(f"/ws/book-requests?ticket={ticket}") as socket:
            assert await socket.closed() == 4501
    else:
        await dora.post("/api/auth/ws-ticket")
    await dora.post("/api/auth/password", {"current_password": PASSWORD, "new_password": PASSWORD + "!"})
    await again.get("/api/auth/me", status=401)
    credentials["password"] += "!"
    await again.post("/api/auth/login", credentials)
    other = next(row for row in (await dora.get("/api/auth/sessions"))["items"] if not row["is_current"])
    await dora.delete(f"/api/auth/sessions/{other['id']}")
    await again.get("/api/auth/me", status=401)
    await again.post("/api/auth/login", credentials)
    await again.delete("/api/auth/sessions")
    await dora.get("/api/auth/me", status=401)
    await again.post("/api/auth/login", credentials)
    await again.post("/api/auth/logout")
    await again.get("/api/auth/me", status=401)
    assert (await stage.there(ada).get("/api/users?prefix=dor"))["items"][0]["username"] == "dora"
    assert (await ada.patch("/api/users/dora", {"is_team": True}))["username"] == "dora"
    assert (await stage.there(stage.ann).get("/api/users/dora"))["username"] == "dora"


async def catalogue(stage: Stage) -> None:
    cleo, ann = stage.cleo, stage.ann
    album = (await cleo.post("/api/albums", {"title": "Night Music", "kind": "music"}, status=201))["id"]
    assert (await cleo.patch(f"/api/albums/{album}", {"description": "for the small hours"}))["title"] == "Night Music"
    image: dict[str, Any] = {"content": picture(), "headers": {"Content-Type": "image/png"}}
    await cleo.ask("PUT", f"/api/albums/{album}/cover", **image)
    files = {"audio": ("tone.flac", sound(seconds=3.0), "audio/flac")}
    form = {"title": "A Tone", "album_id": str(album)}
    track: Json = await cleo.post("/api/tracks", status=201, files=files, data=form)
    number = track["id"]
    assert (await cleo.patch(f"/api/tracks/{number}", {"artist": "Cleo"}))["artist"] == "Cleo"
    await cleo.ask("PUT", f"/api/tracks/{number}/cover", **image)
    there = stage.there(ann)
    assert [row["id"] for row in (await there.get("/api/albums?q=night"))["items"]] == [album]
    assert (await there.get(f"/api/albums/{album}"))["id"] == album
    assert number in [row["id"] for row in (await there.get("/api/tracks"))["items"]]
    assert (await there.get(f"/api/tracks/{number}"))["duration_s"] == 3.0
    assert await there.get(f"/api/tracks/{number}/peaks")
    for path in (f"/api/albums/{album}/cover", f"/api/tracks/{number}/cover", f"/api/tracks/{number}/audio"):
        answer = await there.read(path, headers={"Range": "bytes=0-3"})
        assert (answer.status_code, len(answer.content)) == (206, 4)
    await ann.post(f"/api/tracks/{number}/play")
    await ann.put(f"/api/tracks/{number}/position", {"position_s": 1.5})
    assert (await there.get(f"/api/tracks/{number}/position"))["position_s"] == 1.5
    assert len((await there.get("/api/me/positions"))["items"]) == 1
    await cleo.delete(f"/api/tracks/{number}")
    await cleo.delete(f"/api/albums/{album}")
    await there.get(f"/api/tracks/{number}", status=404)


async def operation(stage: Stage) -> None:
    for replica in (0, 1):
        ada = stage.ada.at(replica)
        await ada.get("/healthz")
        await ada.get("/readyz")
        assert (await ada.get("/status"))["replica"]
        await ada.get("/openapi.json")
        await ada.get("/asyncapi.json")
        assert "antiphon_" in (await ada.read("/metrics")).text
