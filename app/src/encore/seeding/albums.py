"""The albums and tracks of the demonstration: what they are called, and how they sound."""

from __future__ import annotations

from dataclasses import dataclass, replace

from encore.catalogue.schemas import Kind
from encore.seeding.covers import Colour
from encore.seeding.synthesis import Piece, Reading

__all__ = ["ALBUMS", "PlannedAlbum", "PlannedTrack"]

MINOR = (0, 3, 5, 7, 10)
MAJOR = (0, 2, 4, 7, 9)
DORIAN = (0, 2, 3, 5, 7, 9, 10)
LYDIAN = (0, 2, 4, 6, 7, 9, 11)


@dataclass(frozen=True, slots=True)
class PlannedTrack:
    """A track to be made."""

    title: str
    sound: Piece | Reading
    description: str = ""
    container: str = "FLAC"

    def shortened(self, seconds: float) -> PlannedTrack:
        """The same, at most so long."""
        return replace(self, sound=replace(self.sound, seconds=min(seconds, self.sound.seconds)))


@dataclass(frozen=True, slots=True)
class PlannedAlbum:
    """An album to be made."""

    title: str
    description: str
    sky: Colour
    ground: Colour
    light: Colour
    tracks: tuple[PlannedTrack, ...]
    kind: Kind = "music"
    artist: str = ""


ALBUMS = (
    PlannedAlbum(
        title="Night Trains",
        description="Six in the evening to six in the morning, between two stations.",
        sky=(24, 26, 58),
        ground=(14, 16, 34),
        light=(232, 164, 104),
        tracks=(
            PlannedTrack(
                "Platform Nine",
                Piece(11, 92.0, 110.0, MINOR, (0, 3, 2, 4), 84.0, (0, 2, 4, 7, 4, 2, 5, -1), has_pulse=True),
                "Written while waiting for the 18:04, which never came.",
            ),
            PlannedTrack(
                "Window Seat",
                Piece(12, 76.0, 98.0, DORIAN, (0, 3, 5, 4), 72.0, (0, 4, 7, 4, 9, 7, 4, -1)),
                "Fields, a river, the same river again.",
            ),
            PlannedTrack(
                "Sleeper Car",
                Piece(13, 104.0, 82.4, MINOR, (0, 2, 1, 3), 58.0, (0, -1, 4, -1, 7, -1, 5, -1)),
                "Turn the light off first.",
                container="OGG",
            ),
        ),
    ),
    PlannedAlbum(
        title="Small Weather",
        description="Pieces for days on which nothing happens but the sky.",
        sky=(92, 142, 178),
        ground=(44, 86, 74),
        light=(244, 232, 196),
        tracks=(
            PlannedTrack(
                "Drizzle",
                Piece(21, 64.0, 146.8, MAJOR, (0, 2, 1, 3), 96.0, (0, 4, 2, 5, 1, 4, 3, 6)),
                "Every note is a drop. Some of them miss.",
            ),
            PlannedTrack(
                "Washing Line",
                Piece(22, 58.0, 130.8, LYDIAN, (0, 4, 1, 3), 108.0, (0, 2, 4, 6, 4, 2, 7, 4), has_pulse=True),
                "For two shirts and a stiff breeze.",
            ),
            PlannedTrack(
                "First Frost",
                Piece(23, 82.0, 123.5, DORIAN, (0, 5, 3, 4), 66.0, (7, -1, 4, 9, -1, 4, 7, -1)),
                "Recorded with the window open.",
            ),
        ),
    ),
    PlannedAlbum(
        title="The Lighthouse Keeper's Other Job",
        description="A short novel in three chapters, read in a language that only the keeper speaks.",
        sky=(58, 44, 82),
        ground=(26, 30, 48),
        light=(248, 214, 126),
        kind="audiobook",
        artist="read by the keeper",
        tracks=(
            PlannedTrack("Chapter 1: The Lamp", Reading(31, 70.0, 112.0), "In which a letter comes by sea."),
            PlannedTrack("Chapter 2: The Ledger", Reading(32, 62.0, 108.0), "In which the sums do not add up."),
            PlannedTrack(
                "Chapter 3: The Fog", Reading(33, 48.0, 104.0), "In which nothing can be seen, and all is clear."
            ),
        ),
    ),
)
