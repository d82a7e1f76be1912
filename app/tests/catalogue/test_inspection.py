"""Looking at strangers' files: decoding in a process without rights, and the heads of pictures."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from catalogue.sounds import picture, sound

from encore.catalogue import decoder, inspection
from encore.catalogue.faults import Unprocessable, UnsupportedMedia
from encore.catalogue.images import read_picture
from encore.catalogue.inspection import audio_suffix, inspect_audio
from encore.errors import Unavailable

RIGHTS = """
import os, socket, sys
sys.path.insert(0, sys.argv[1])
import decoder
decoder._prepare()
decoder._give_up_rights()
for attempt in (socket.socket, os.pipe, lambda: open(sys.argv[1] + "/decoder.py"), lambda: open(os.devnull, "w")):
    try:
        attempt()
    except OSError as error:
        print(type(error).__name__, flush=True)
try:
    bytearray(3 * 1024**3)
except MemoryError:
    print("MemoryError")
"""


def test_the_decoder_can_open_nothing_when_it_has_begun() -> None:
    command = [sys.executable, "-I", "-c", RIGHTS, str(inspection.DECODER.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["OSError"] * 4 + ["MemoryError"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import time; time.sleep(600)", "takes too long"),
        ("import os; os.kill(os.getpid(), 11)", "cannot be decoded"),
        ("raise SystemExit", "cannot be decoded"),
        ("print('{' * 5_000_000)", "too much"),
        ("import json; print(json.dumps({'refused': 'no sound'}))", "no sound"),
    ],
)
async def test_the_file_is_refused_when_its_decoder_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    broken = tmp_path / "decoder.py"
    broken.write_text(f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n{program}\n")
    (tmp_path / "audio").write_bytes(sound())
    monkeypatch.setattr(inspection, "DECODER", broken)
    if "long" in reason:
        monkeypatch.setattr(inspection, "DECODING_S", 4.0)
    with pytest.raises(Unprocessable, match=reason):
        await inspect_audio(tmp_path / "audio", suffix="flac")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_nobody_is_blamed_when_the_decoder_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "decoder.py"
    broken.write_text("import no_such_module")
    (tmp_path / "audio").write_bytes(sound())
    monkeypatch.setattr(inspection, "DECODER", broken)
    with pytest.raises(Unavailable, match="try again later"):
        await inspect_audio(tmp_path / "audio", suffix="flac")


def test_a_file_is_refused_when_it_lasts_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "MAX_DURATION_S", 2)
    assert decoder.measure(io.BytesIO(sound(seconds=1.9))).duration_s == pytest.approx(1.9)
    with pytest.raises(decoder.Refused, match="longer than"):
        decoder.measure(io.BytesIO(sound(seconds=60.0)))


@pytest.mark.parametrize("seconds", [0.1, 0.5, 3.0, 28.8, 29.0, 100.0, 1000.0])
def test_a_waveform_has_about_as_many_points_when_the_track_is_longer(seconds: float) -> None:
    found = decoder.measure(io.BytesIO(sound("WAV", seconds=seconds)))
    points = len(found.peaks) // 2
    assert points == -(-int(seconds * 8000) // found.frames_per_peak)
    assert points <= decoder.POINTS
    assert points > decoder.POINTS / 2.1 or found.frames_per_peak == decoder.STRETCH


def test_the_waveform_holds_all_channels_when_they_differ() -> None:
    wave = np.zeros((8000, 3), dtype=np.float32)
    wave[:, 1], wave[4000:, 2] = 0.5, -1.0
    wave[100, 0], wave[101, 0] = np.nan, np.inf
    file = io.BytesIO()
    soundfile.write(file, wave, 8000, format="WAV", subtype="FLOAT")
    file.seek(0)
    peaks = np.frombuffer(decoder.measure(file).peaks, dtype=np.int8).reshape(-1, 2)
    assert peaks[5].tolist() == [0, 64]
    assert peaks[-1].tolist() == [-127, 64]
    assert peaks[0][1] == 127


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xf3\x40\xc4", "mp3"),
        (b"ID3\x04", "mp3"),
        (b"RIFF\0\0\0\0WAVE", "wav"),
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
    ],
)
def test_audio_is_known_by_its_first_bytes(head: bytes, suffix: str) -> None:
    assert audio_suffix(head.ljust(16, b"\0")) == suffix


OTHER = (b"", b"\xff", b"\xff\xff\xff\xff", b"\xff\xfb\xf0\0", b"\xff\xd8\xff\xe0", b"RIFF", b"id3")


@pytest.mark.parametrize("head", OTHER)
def test_nothing_else_is_audio(head: bytes) -> None:
    with pytest.raises(UnsupportedMedia):
        audio_suffix(head.ljust(16, b"\0"))


def jpeg(width: int, height: int, *, before: bytes = b"") -> bytes:
    frame = b"\xff\xc2" + struct.pack(">HBHH", 17, 8, height, width) + bytes(10)
    return b"\xff\xd8" + b"\xff\xe0\x00\x06JFIF" + before + b"\xff" + frame + b"\xff\xda" + bytes(20)


def webp(kind: bytes, content: bytes) -> bytes:
    return b"RIFF\0\0\0\0WEBP" + kind + struct.pack("<I", len(content)) + content.ljust(20, b"\0")


PICTURES = {
    "png": picture(640, 480),
    "jpg": jpeg(640, 480),
    "jpg with a table first": jpeg(640, 480, before=b"\xff\xc4\x00\x08\xff\xc2abcd"),
    "webp lossy": webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 640, 480 | 1 << 14)),
    "webp lossless": webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)),
    "webp extended": webp(b"VP8X", b"\0\0\0\0" + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_pictures_size_is_read_from_its_head(name: str) -> None:
    found = read_picture(PICTURES[name])
    assert (found.suffix, found.width_px, found.height_px) == (name.split()[0], 640, 480)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_refused_when_it_is_cut_off(name: str) -> None:
    content = PICTURES[name]
    for length in range({"p": 24, "j": 19, "w": 30}[name[0]]):
        with pytest.raises((UnsupportedMedia, Unprocessable)):
            read_picture(content[:length])


@pytest.mark.parametrize("filling", [b"\xff\xe0\x00\x02", b"\xff\xff"])
def test_a_picture_is_refused_when_its_size_stands_behind_too_much(filling: bytes) -> None:
    assert read_picture(jpeg(640, 480, before=filling * 100)).width_px == 640
    with pytest.raises(Unprocessable):
        read_picture(jpeg(640, 480, before=filling * 2_000))


HUGE = (jpeg(4097, 1), jpeg(1, 0), picture(65000, 1), webp(b"VP8X", b"\0" * 4 + b"\xff" * 6))


@pytest.mark.parametrize("content", HUGE)
def test_a_picture_is_refused_when_it_is_huge(content: bytes) -> None:
    with pytest.raises(Unprocessable, match="pixels"):
        read_picture(content)


NOT_PICTURES = (b"<svg/>", b"<?xml version='1.0'?><svg/>", b"GIF89a", b"BM", webp(b"XXXX", b""), b"RIFF")


@pytest.mark.parametrize("content", NOT_PICTURES)
def test_nothing_else_is_a_picture(content: bytes) -> None:
    with pytest.raises((UnsupportedMedia, Unprocessable)):
        read_picture(content)
