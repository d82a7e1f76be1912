"""The routes of the catalogue's files: audio, waveforms and covers, and how they get there."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response, status
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from encore.accounts.access import Staff
from encore.catalogue import listing, service
from encore.catalogue.files import cache_headers, send_stored
from encore.catalogue.images import TYPES
from encore.catalogue.ranges import is_known
from encore.catalogue.schemas import AlbumAnswer, PeaksAnswer, TrackAnswer, TrackForm, version_of
from encore.catalogue.uploads import received_audio, received_cover
from encore.db import ReadSession, database
from encore.errors import ErrorAnswer, NotFound

__all__ = ["router"]

router = APIRouter()

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]

UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer}}
REFUSED: dict[int | str, dict[str, Any]] = {code: {"model": ErrorAnswer} for code in (400, 404, 413, 415)}
COVER_REFUSED = REFUSED | {503: {"model": ErrorAnswer}}
UPLOAD = REFUSED | {code: {"model": ErrorAnswer} for code in (409, 503)}


def _file_answers(*media_types: str) -> dict[int | str, dict[str, Any]]:
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in media_types}
    return UNKNOWN | {200: {"content": content}, 304: {"description": "The version that the client has"}}


AUDIO_ANSWERS = _file_answers("audio/flac", "audio/mpeg", "audio/ogg", "audio/wav") | {
    206: {"description": "The range that was asked for"},
    416: {"description": "The range lies outside of the file, or there are too many", "model": ErrorAnswer},
}
COVER_ANSWERS = _file_answers(*TYPES.values()) | {206: {"description": "The range that was asked for"}}
COVER_BODY = {
    "requestBody": {
        "required": True,
        "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in TYPES.values()},
    }
}


def _form_schema() -> dict[str, Any]:
    schema = TrackForm.model_json_schema()
    file = {"type": "string", "format": "binary"}
    files = {
        "audio": file | {"description": "WAV, FLAC, Ogg (Vorbis, Opus) or MP3"},
        "cover": file | {"description": "JPEG, PNG or WebP; without it the picture in the file's tags"},
    }
    schema["properties"] = files | schema["properties"]
    schema["required"] = ["audio"]
    return schema


UPLOAD_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form_schema()}}}}


@router.post("/tracks", status_code=status.HTTP_201_CREATED, responses=UPLOAD, openapi_extra=UPLOAD_BODY)
async def upload_track(request: Request, user: Staff) -> TrackAnswer:
    """Upload a track, as a form. The audio is checked by what it holds, and decoded once, before the answer comes."""
    async with received_audio(request, user_id=user.id) as received:
        try:
            form = TrackForm.model_validate(received.fields)
        except ValidationError as error:
            raise RequestValidationError(
                [problem | {"loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
            ) from error
        assert received.inspection is not None
        async with database().writing() as session:
            track = await service.add_track(
                session,
                user,
                form,
                received.inspection,
                audio_file=received.audio_file,
                audio_bytes=received.audio_bytes,
                audio_sha256=received.audio_sha256,
                cover_file=received.cover_file,
            )
            answer = TrackAnswer.of(await listing.find_track(session, track.id))
            received.is_named = True
        return answer


@router.get("/tracks/{track_id}/audio", response_class=Response, responses=AUDIO_ANSWERS)
async def audio(track_id: Id, request: Request, session: ReadSession) -> Response:
    """The sound. One `Range:` of bytes is answered by 206, as players need it for seeking."""
    track = await listing.find_track(session, track_id)
    return await send_stored(request, track.audio_file, media_type=track.audio_type)


@router.head("/tracks/{track_id}/audio", include_in_schema=False)
async def audio_head(track_id: Id, request: Request, session: ReadSession) -> Response:
    """The same without the sound."""
    return await audio(track_id, request, session)


@router.get("/tracks/{track_id}/peaks", responses=UNKNOWN | {304: {"description": "The version that the client has"}})
async def peaks(track_id: Id, request: Request, response: Response, session: ReadSession) -> PeaksAnswer:
    """The waveform, to be drawn before the sound is there. In the format of the program audiowaveform."""
    track = await listing.find_track(session, track_id, with_peaks=True)
    headers = cache_headers(request, version_of(track.audio_file))
    if is_known(request.headers, etag=headers["ETag"]):
        return Response(status_code=304, headers=headers)  # type: ignore[return-value]  # FastAPI passes it on
    response.headers.update(headers)
    return PeaksAnswer.of(track)


@router.get("/tracks/{track_id}/cover", response_class=Response, responses=COVER_ANSWERS)
async def track_cover(track_id: Id, request: Request, session: ReadSession) -> Response:
    """The track's own cover, else its album's."""
    track = await listing.find_track(session, track_id)
    return await _cover(request, track.cover_file or (None if track.album is None else track.album.cover_file))


@router.head("/tracks/{track_id}/cover", include_in_schema=False)
async def track_cover_head(track_id: Id, request: Request, session: ReadSession) -> Response:
    """The same without the picture."""
    return await track_cover(track_id, request, session)


@router.put("/tracks/{track_id}/cover", responses=COVER_REFUSED, openapi_extra=COVER_BODY)
async def put_track_cover(track_id: Id, request: Request, user: Staff) -> TrackAnswer:
    """Give the track a cover of its own: the picture is the body. For its creator and admins."""
    async with received_cover(request, user_id=user.id) as received:
        assert received.cover_file is not None
        async with database().writing() as session:
            await service.set_track_cover(session, user, track_id, received.cover_file)
            answer = TrackAnswer.of(await listing.find_track(session, track_id))
            received.is_named = True
    return answer


@router.get("/albums/{album_id}/cover", response_class=Response, responses=COVER_ANSWERS)
async def album_cover(album_id: Id, request: Request, session: ReadSession) -> Response:
    """The album's cover."""
    album = await listing.find_album(session, album_id)
    return await _cover(request, album.cover_file)


@router.head("/albums/{album_id}/cover", include_in_schema=False)
async def album_cover_head(album_id: Id, request: Request, session: ReadSession) -> Response:
    """The same without the picture."""
    return await album_cover(album_id, request, session)


@router.put("/albums/{album_id}/cover", responses=COVER_REFUSED, openapi_extra=COVER_BODY)
async def put_album_cover(album_id: Id, request: Request, user: Staff) -> AlbumAnswer:
    """Give the album a cover: the picture is the body. For its creator and admins."""
    async with received_cover(request, user_id=user.id) as received:
        assert received.cover_file is not None
        async with database().writing() as session:
            await service.set_album_cover(session, user, album_id, received.cover_file)
            album = await listing.find_album(session, album_id)
            answer = AlbumAnswer.of(album)
            received.is_named = True
    return answer


async def _cover(request: Request, name: str | None) -> Response:
    if name is None:
        raise NotFound("there is no cover", code="no_cover")
    return await send_stored(request, name, media_type=TYPES[PurePath(name).suffix[1:]])
