"""What the REST routes of the catalogue take and give."""

from __future__ import annotations

import datetime
import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from encore.accounts.models import User
from encore.catalogue.models import Album, Listening, Track
from encore.text.fields import Line, line, prose

__all__ = [
    "AlbumAnswer",
    "AlbumChange",
    "AlbumSort",
    "AlbumWithTracks",
    "Creator",
    "Kind",
    "NewAlbum",
    "NewPosition",
    "PeaksAnswer",
    "PlayAnswer",
    "PositionAnswer",
    "PositionOfTrack",
    "TrackAnswer",
    "TrackChange",
    "TrackForm",
    "TrackSort",
    "version_of",
]

Kind = Literal["music", "audiobook"]
AlbumSort = Literal["newest", "oldest", "title"]
TrackSort = Literal["newest", "oldest", "title", "plays"]

Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Text = Annotated[str, prose(max_length=5000, may_be_empty=True)]
Artist = Annotated[str, line(max_length=200, may_be_empty=True)]
Place = Annotated[int, Field(ge=0, le=9999)]


def version_of(name: str) -> str:
    """A few characters that change when a file is replaced by another, for addresses and entity tags."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class Creator(BaseModel):
    """Whose it is."""

    id: int
    username: str
    display_name: str

    @classmethod
    def of(cls, user: User) -> Creator:
        return cls(id=user.id, username=user.username, display_name=user.display_name or user.username)


class AlbumAnswer(BaseModel):
    """An album, without its tracks."""

    id: int
    title: str
    description: str
    kind: Kind
    creator: Creator
    track_count: int
    cover_url: str | None = Field(description="Null when it has no cover")
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def of(cls, album: Album) -> AlbumAnswer:
        return cls.model_validate({**cls._fields(album), "creator": Creator.of(album.creator)})

    @staticmethod
    def _fields(album: Album) -> dict[str, object]:
        names = ("id", "title", "description", "kind", "track_count", "created_at", "updated_at")
        return {name: getattr(album, name) for name in names} | {"cover_url": _cover_url("albums", album)}


class TrackAnswer(BaseModel):
    """A track."""

    id: int
    title: str
    artist: str = Field(description="Who plays or reads, when that is not the creator; else empty")
    description: str
    number: int = Field(description="Its place on the album")
    duration_s: float
    album_id: int | None
    album_title: str | None
    creator: Creator
    audio_url: str
    audio_type: str
    audio_bytes: int
    peaks_url: str
    cover_url: str | None = Field(description="Its own cover, else its album's; null when neither has one")
    comments_closed: bool
    play_count: int
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def of(cls, track: Track) -> TrackAnswer:
        """The answer for a track whose creator and album are loaded."""
        names = (
            "id",
            "title",
            "artist",
            "description",
            "number",
            "duration_s",
            "album_id",
            "audio_type",
            "audio_bytes",
        )
        more = ("comments_closed", "play_count", "created_at", "updated_at")
        album = track.album
        cover = _cover_url("tracks", track) or (None if album is None else _cover_url("albums", album))
        version = version_of(track.audio_file)
        return cls.model_validate(
            {name: getattr(track, name) for name in (*names, *more)}
            | {
                "album_title": None if album is None else album.title,
                "creator": Creator.of(track.creator),
                "audio_url": f"/api/tracks/{track.id}/audio?v={version}",
                "peaks_url": f"/api/tracks/{track.id}/peaks?v={version}",
                "cover_url": cover,
            }
        )


class AlbumWithTracks(AlbumAnswer):
    """An album and its tracks, in their order."""

    tracks: list[TrackAnswer]

    @classmethod
    def of_both(cls, album: Album, tracks: list[Track]) -> AlbumWithTracks:
        listed = [TrackAnswer.of(track) for track in tracks]
        return cls.model_validate({**cls._fields(album), "creator": Creator.of(album.creator), "tracks": listed})


class NewAlbum(BaseModel):
    """An album to be."""

    title: Line
    description: Text = ""
    kind: Kind = "music"


class AlbumChange(BaseModel):
    """What is to be different; what is not named stays."""

    title: Line | None = None
    description: Text | None = None
    kind: Kind | None = None


class TrackForm(BaseModel):
    """What the upload's form says beside its files."""

    title: Line | None = Field(default=None, description="Without it the title in the file's tags")
    artist: Artist | None = Field(default=None, description="Without it the artist in the file's tags")
    description: Text = ""
    album_id: Id | None = Field(default=None, description="One of your own albums")
    number: Place | None = Field(default=None, description="Its place on the album; without it the last")


class TrackChange(BaseModel):
    """What is to be different; what is not named stays."""

    title: Line | None = None
    artist: Artist | None = None
    description: Text | None = None
    number: Place | None = None
    album_id: Id | None = Field(default=None, description="Another album of yours; null takes the track off its album")


class PeaksAnswer(BaseModel):
    """The waveform: of each stretch of `samples_per_pixel` samples the lowest and the highest, over all channels."""

    version: Literal[2] = 2
    channels: Literal[1] = 1
    bits: Literal[8] = 8
    sample_rate: int
    samples_per_pixel: int
    length: int = Field(description="Stretches; `data` holds twice as many numbers")
    duration_s: float
    data: list[int] = Field(description="Lowest, highest, lowest, highest … each of -128 to 127")

    @classmethod
    def of(cls, track: Track) -> PeaksAnswer:
        """The answer for a track whose peaks are loaded."""
        data = list(memoryview(track.peaks).cast("b"))
        return cls(
            sample_rate=track.sample_rate,
            samples_per_pixel=track.frames_per_peak,
            length=len(data) // 2,
            duration_s=track.duration_s,
            data=data,
        )


class PlayAnswer(BaseModel):
    """What became of a play."""

    counted: bool = Field(description="False when this person's last one was counted a short while ago")
    play_count: int


class NewPosition(BaseModel):
    """Where somebody is in a track."""

    position_s: float = Field(ge=0, le=1e6, allow_inf_nan=False, description="Beyond the end means the end")


class PositionAnswer(BaseModel):
    """Where somebody stopped."""

    track_id: int
    position_s: float = Field(description="0 when the track was never begun")
    updated_at: datetime.datetime | None = Field(description="Null when the track was never begun")

    @classmethod
    def of(cls, listening: Listening) -> PositionAnswer:
        return cls(track_id=listening.track_id, position_s=listening.position_s, updated_at=listening.position_at)


class PositionOfTrack(PositionAnswer):
    """Where somebody stopped in a track, and the track."""

    track: TrackAnswer


def _cover_url(kind: str, row: Album | Track) -> str | None:
    return None if row.cover_file is None else f"/api/{kind}/{row.id}/cover?v={version_of(row.cover_file)}"
