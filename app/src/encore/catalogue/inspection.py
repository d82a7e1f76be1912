"""What an uploaded file is: by its first bytes, then by decoding it in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from encore.catalogue.faults import Unprocessable, UnsupportedMedia
from encore.errors import Unavailable
from encore.text.fields import Line

__all__ = ["AUDIO_TYPES", "HEAD_BYTES", "Inspection", "audio_suffix", "inspect_audio"]

log = logging.getLogger("encore.catalogue")

HEAD_BYTES = 16
"""Of these the kind is recognised."""
DECODER = Path(__file__).with_name("decoder.py")
"""Not imported: numpy and the decoders are of no use in the server's own process."""
DECODING_S = 180.0
ANSWER_BYTES = 4 * 1024**2
TAG_CHARACTERS = 200

LINE: TypeAdapter[str] = TypeAdapter(Line)

AUDIO_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}
CONTAINERS = {"WAV": "wav", "WAVEX": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in a file."""

    suffix: str
    duration_s: float
    sample_rate: int
    peaks: bytes
    frames_per_peak: int
    title: str = ""
    artist: str = ""
    cover: bytes = b""
    """The picture in the tags, as it is there: not looked at yet."""

    @property
    def media_type(self) -> str:
        return AUDIO_TYPES[self.suffix]


def audio_suffix(head: bytes) -> str:
    """The kind of a file that begins so. Raises UnsupportedMedia (415) for all but WAV, FLAC, Ogg and MP3."""
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"ID3") or _is_mpeg_frame(head):
        return "mp3"
    raise UnsupportedMedia("this is no WAV, FLAC, Ogg or MP3 file, whatever its name says", code="audio_type")


async def inspect_audio(path: Path, *, suffix: str) -> Inspection:
    """Decode a file completely. Raises Unprocessable (422), with the reason, unless it is sound of the kind it says.

    Raises Unavailable (503) when the decoder does not run here at all. Takes a process for as long as it lasts, of low
    priority; one that takes more than 3 minutes is killed.
    """
    answer = await _decode(path)
    refusal = answer.get("refused")
    if refusal is not None:
        raise Unprocessable(f"the audio is not taken: {refusal}", code="audio_broken")
    if CONTAINERS.get(answer["container"]) != suffix:
        raise Unprocessable("the audio is not taken: it is of another kind than it begins like", code="audio_broken")
    tags = answer["tags"]
    return Inspection(
        suffix=suffix,
        duration_s=float(answer["duration_s"]),
        sample_rate=int(answer["sample_rate"]),
        peaks=base64.b64decode(answer["peaks"]),
        frames_per_peak=int(answer["frames_per_peak"]),
        title=_plain(tags.get("title", "")),
        artist=_plain(tags.get("artist", "")),
        cover=base64.b64decode(tags.get("cover", "")),
    )


async def _decode(path: Path) -> dict[str, Any]:
    command = (sys.executable, "-I", "-X", "utf8", str(DECODER))
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    file = await asyncio.to_thread(path.open, "rb")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=kept | {"OPENBLAS_NUM_THREADS": "1"},
        )
    finally:
        file.close()
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DECODING_S):
            written = await _read_all(process.stdout)
            await process.wait()
    except TimeoutError:
        raise Unprocessable("the audio is not taken: decoding it takes too long", code="audio_broken") from None
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    assert process.returncode is not None
    if process.returncode > 0:
        log.error("the decoder does not run (status %d): see `%s < FILE`", process.returncode, " ".join(command))
        raise Unavailable("audio cannot be decoded at the moment: try again later", code="decoder")
    try:
        answer = json.loads(written)
    except ValueError:
        # It crashed, or ran into one of its limits: that is the file's doing.
        log.warning("the decoder ended with %d and no answer", process.returncode)
        raise Unprocessable("the audio is not taken: it cannot be decoded", code="audio_broken") from None
    assert isinstance(answer, dict)
    return answer


async def _read_all(stream: asyncio.StreamReader) -> bytes:
    written = bytearray()
    while piece := await stream.read(64 * 1024):
        written += piece
        if len(written) > ANSWER_BYTES:
            raise Unprocessable("the audio is not taken: there is too much beside the sound in it", code="audio_broken")
    return bytes(written)


def _plain(text: str) -> str:
    """What a tag says as one line, held to the rule for what people write; empty if it says nothing that way."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
    kept = (" " if character.isspace() else character for character in text)
    shown = "".join(character for character in kept if unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cn"))
    try:
        return LINE.validate_python(" ".join(shown.split())[:TAG_CHARACTERS])
    except ValidationError:
        return ""


def _is_mpeg_frame(head: bytes) -> bool:
    """Whether an MPEG audio frame of layer III begins here."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer == 1 and bitrate not in (0, 15) and rate != 3
