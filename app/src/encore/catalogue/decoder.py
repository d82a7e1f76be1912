"""Decodes one audio file that somebody uploaded, as a program of its own: `python -I decoder.py < FILE`.

The file is a stranger's and the decoders are written in C, so it happens in a process that can be killed and that gives
up, before it reads the first byte, the means to do harm: it cannot open a file, a socket or another process any more,
and its memory and processor time are limited. It writes one JSON object: what it found, or `{"refused": …}`.
Imports nothing of the site, so that it starts quickly. `measure` also serves for audio that the site made itself.
"""

from __future__ import annotations

import base64
import codecs
import json
import os
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import soundfile

MAX_DURATION_S = 6 * 3600
CHANNELS = range(1, 9)
SAMPLE_RATES_HZ = range(4_000, 384_001)
POINTS = 900
"""Peaks that a track has, about."""
STRETCH = 256
"""Frames that are summed up at first, when the length is not known for sure."""
BLOCK = STRETCH * 256
CPU_S = 120
MEMORY_BYTES = 2 * 1024**3
TAG_CHARACTERS = 500
COVER_BYTES = 2 * 1024**2

PLAYABLE = {
    "WAV": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"),
    "WAVEX": ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"),
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}
"""Containers and encodings that browsers play; libsndfile reads more, which nobody needs here."""


class Refused(Exception):
    """This file is not taken; the text says why, to the one who uploaded it."""


@dataclass(frozen=True, slots=True)
class Sound:
    """What a file sounds like."""

    container: str
    duration_s: float
    sample_rate: int
    peaks: bytes
    """Lowest and highest sample of each `frames_per_peak` frames: pairs of signed bytes."""
    frames_per_peak: int


def measure(file: BinaryIO | int) -> Sound:
    """Decode a file from beginning to end. Raises Refused when that cannot be done, or when it is too long."""
    try:
        with soundfile.SoundFile(file, closefd=False) as sound:
            if sound.subtype not in PLAYABLE.get(sound.format, ()):
                raise Refused(f"browsers do not play {sound.format} with {sound.subtype}")
            if sound.channels not in CHANNELS or sound.samplerate not in SAMPLE_RATES_HZ:
                raise Refused(f"{sound.channels} channels at {sound.samplerate} Hz are not taken")
            lowest, highest, frames = _stretches(sound)
            container, rate = str(sound.format), int(sound.samplerate)
    except (soundfile.SoundFileError, OverflowError, ValueError) as error:
        raise Refused(f"it cannot be decoded ({error})") from error
    if frames < rate // 10:
        raise Refused("there is less than a tenth of a second of sound in it")
    together = max(1, -(-len(lowest) // POINTS))
    starts = np.arange(0, len(lowest), together)
    pairs = np.stack([np.minimum.reduceat(lowest, starts), np.maximum.reduceat(highest, starts)], axis=1)
    peaks = np.rint(np.clip(np.nan_to_num(pairs), -1, 1) * 127).astype(np.int8).tobytes()
    return Sound(container, frames / rate, rate, peaks, together * STRETCH)


def _stretches(sound: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Lowest and highest of each stretch over all channels, and how many frames there are."""
    lowest: list[np.ndarray[Any, Any]] = []
    highest: list[np.ndarray[Any, Any]] = []
    frames = 0
    while True:
        block = sound.read(BLOCK, dtype="float32", always_2d=True)
        if not len(block):
            break
        frames += len(block)
        if frames > MAX_DURATION_S * sound.samplerate:
            raise Refused(f"it is longer than {MAX_DURATION_S // 3600} hours")
        starts = np.arange(0, block.size, STRETCH * sound.channels)
        # Of these two a sample that is no number, as a file of floats may hold, spoils nothing.
        lowest.append(np.fmin.reduceat(block.ravel(), starts))
        highest.append(np.fmax.reduceat(block.ravel(), starts))
    empty = np.zeros(0, dtype=np.float32)
    return np.concatenate([empty, *lowest]), np.concatenate([empty, *highest]), frames


def _tags(file: BinaryIO) -> dict[str, str]:
    """Title, artist and the picture that the file says it has; nothing if that cannot be read."""
    from tinytag import TinyTag

    try:
        tag = TinyTag.get(file_obj=file, duration=False, image=True)
        texts = {"title": tag.title, "artist": tag.artist, "comment": tag.comment}
        image = tag.images.any
        cover = b"" if image is None else image.data
    except Exception:  # whatever a stranger's tags make of the parser: a track without tags is as good
        return {}
    found = {name: text[:TAG_CHARACTERS] for name, text in texts.items() if isinstance(text, str)}
    if 0 < len(cover) <= COVER_BYTES:
        found["cover"] = base64.b64encode(cover).decode()
    return found


def _prepare() -> None:
    """Import what will be needed: nothing can be opened any more then."""
    import tinytag  # noqa: F401

    for encoding in ("ascii", "latin-1", "cp1252", "utf-8", "utf-16", "utf-16-le", "utf-16-be"):
        codecs.lookup(encoding)


def _give_up_rights() -> None:
    """No more files, sockets or processes, and an end to memory and time."""
    if sys.platform == "win32":
        return  # has no such limits; there the parent's time limit is all
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def main() -> None:
    """What is on standard input, as JSON on standard output."""
    _prepare()
    if sys.platform != "win32":
        os.nice(10)
    _give_up_rights()
    file = sys.stdin.buffer
    try:
        sound = measure(file.fileno())
        file.seek(0)
        answer: dict[str, object] = {
            "container": sound.container,
            "duration_s": sound.duration_s,
            "sample_rate": sound.sample_rate,
            "peaks": base64.b64encode(sound.peaks).decode(),
            "frames_per_peak": sound.frames_per_peak,
            "tags": _tags(file),
        }
    except Refused as refused:
        answer = {"refused": str(refused)}
    except MemoryError:
        answer = {"refused": "decoding it takes too much memory"}
    except Exception as error:  # an end with a status would mean that the decoder does not run at all
        answer = {"refused": f"it cannot be decoded ({type(error).__name__})"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
