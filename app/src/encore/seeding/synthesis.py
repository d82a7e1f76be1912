"""Audio for the demonstration, made on the spot: small pieces of music, and a voice that reads in no language.

The same plan gives the same sound on every machine, but for the last bits. A minute takes some tenths of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

__all__ = ["RATE_HZ", "Piece", "Reading", "write_sound"]

RATE_HZ = 24_000
BLOCK = 16_384
"""libsndfile's Vorbis encoder puts what it is given at once on the stack."""
FADE_S = 2.5

Wave: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of music: chords, a figure that runs over them, bass, and perhaps a pulse."""

    seed: int
    seconds: float
    root_hz: float
    scale: tuple[int, ...]
    """Semitones above the root."""
    chords: tuple[int, ...]
    """Steps of the scale on which the chords are built, one a bar."""
    beats_per_minute: float
    figure: tuple[int, ...]
    """Steps above the chord's root, an eighth each; below zero means a rest."""
    has_pulse: bool = False

    def sound(self) -> Wave:
        """The whole piece, between -1 and 1."""
        random = np.random.default_rng(self.seed)
        beat_s = 60 / self.beats_per_minute
        bar_s = 4 * beat_s
        wave = np.zeros(int(self.seconds * RATE_HZ), dtype=np.float32)
        plucks = {step: _pluck(self._pitch(step) * 2) for step in range(20)}
        for bar in range(int(self.seconds / bar_s) + 1):
            chord = self.chords[bar % len(self.chords)]
            at_s = bar * bar_s
            swell = 0.5 + 0.5 * np.sin(np.pi * min(1.0, at_s / self.seconds))
            _add(wave, _pad([self._pitch(chord + third) for third in (0, 2, 4)], bar_s * 1.2), at_s, 0.10)
            _add(wave, _bass(self._pitch(chord) / 2, bar_s), at_s, 0.22)
            for eighth in range(8):
                step = self.figure[(bar * 8 + eighth) % len(self.figure)]
                if step >= 0 and random.random() < 0.6 + 0.35 * swell:
                    lateness_s = float(random.normal(0, 0.006))
                    _add(wave, plucks[(chord + step) % 20], at_s + eighth * beat_s / 2 + lateness_s, 0.20 * swell)
            if self.has_pulse and bar >= 4:
                for beat in range(4):
                    _add(wave, _drum(), at_s + beat * beat_s, 0.30 if beat % 2 == 0 else 0.12)
        return _finish(_with_room(wave))

    def _pitch(self, step: int) -> float:
        octave, place = divmod(step, len(self.scale))
        return float(self.root_hz * 2 ** (octave + self.scale[place] / 12))


VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """Somebody who reads aloud: syllables, sentences and pauses, and no words."""

    seed: int
    seconds: float
    voice_hz: float

    def sound(self) -> Wave:
        """The whole reading, between -1 and 1."""
        random = np.random.default_rng(self.seed)
        wave = np.zeros(int(self.seconds * RATE_HZ), dtype=np.float32)
        syllables = {
            (vowel, step): _syllable(self.voice_hz * 2 ** (step / 12), formants)
            for vowel, formants in VOWELS.items()
            for step in range(-3, 4)
        }
        at_s = 0.6
        while at_s < self.seconds - 1:
            length = int(random.integers(6, 18))
            for number in range(length):
                step = round(2.5 - 5 * number / length + float(random.normal(0, 0.8)))
                vowel = "aeiou"[int(random.integers(5))]
                _add(wave, syllables[vowel, max(-3, min(3, step))], at_s, 0.35 + 0.15 * float(random.random()))
                at_s += float(random.uniform(0.14, 0.27))
            at_s += float(random.uniform(0.35, 0.9))
        return _finish(wave)


def write_sound(path: Path, wave: Wave, *, container: str) -> None:
    """Write a file of the kind "FLAC" or "OGG"."""
    with path.open("xb") as target, soundfile.SoundFile(target, "w", RATE_HZ, 1, format=container) as file:
        for start in range(0, len(wave), BLOCK):
            file.write(wave[start : start + BLOCK])


def _times(seconds: float) -> Wave:
    return (np.arange(int(seconds * RATE_HZ), dtype=np.float32) / RATE_HZ).astype(np.float32)


def _tone(hz: float, times: Wave) -> Wave:
    return np.asarray(np.sin(np.float32(2 * np.pi * hz) * times), dtype=np.float32)


def _pluck(hz: float) -> Wave:
    """A struck string: higher partials die sooner."""
    times = _times(1.6)
    partials = (
        _tone(hz * n, times) * np.exp(-times * (2.2 + 1.6 * n)) / n for n in range(1, 6) if hz * n < RATE_HZ / 2
    )
    return np.asarray(sum(partials) * np.minimum(1, times / 0.004), dtype=np.float32)


def _pad(pitches: list[float], seconds: float) -> Wave:
    """A chord that comes and goes, each tone a little beside itself."""
    times = _times(seconds)
    tones = sum(_tone(hz, times) + _tone(hz * 1.004, times) + 0.3 * _tone(hz * 2, times) for hz in pitches)
    return np.asarray(tones * np.sin(np.pi * times / seconds) ** 0.8, dtype=np.float32)


def _bass(hz: float, seconds: float) -> Wave:
    times = _times(seconds)
    return np.asarray((_tone(hz, times) + 0.25 * _tone(hz * 2, times)) * np.exp(-times * 1.2), dtype=np.float32)


def _drum() -> Wave:
    times = _times(0.25)
    return np.asarray(
        np.sin(2 * np.pi * (60 * times - 6 * np.exp(-times * 30))) * np.exp(-times * 18), dtype=np.float32
    )


def _syllable(hz: float, formants: tuple[int, ...]) -> Wave:
    times = _times(0.24)
    glide = times - np.float32(0.04) * times**2
    wave = np.zeros_like(times)
    for n in range(1, int(3500 / hz)):
        loudness = sum(
            np.exp(-(((n * hz - formant) / 160) ** 2)) / (1 + place) for place, formant in enumerate(formants)
        )
        wave += np.float32(loudness + 0.02) * _tone(n * hz, glide)
    return np.asarray(wave * np.sin(np.pi * times / 0.24) ** 0.6 * 0.4, dtype=np.float32)


def _add(wave: Wave, part: Wave, at_s: float, loudness: float) -> None:
    start = max(0, int(at_s * RATE_HZ))
    part = part[: max(0, len(wave) - start)]
    wave[start : start + len(part)] += np.float32(loudness) * part


def _with_room(wave: Wave) -> Wave:
    """The sound comes back from some walls."""
    dry = wave.copy()
    for delay_s, loudness in ((0.031, 0.25), (0.067, 0.2), (0.113, 0.16), (0.211, 0.12), (0.307, 0.09), (0.463, 0.06)):
        _add(wave, dry, delay_s, loudness)
    return wave


def _finish(wave: Wave) -> Wave:
    """As loud as the others, and with a beginning and an end."""
    wave *= np.float32(0.8) / max(np.float32(0.01), np.abs(wave).max())
    ramp = np.linspace(0, 1, int(min(FADE_S, len(wave) / RATE_HZ / 3) * RATE_HZ), dtype=np.float32)
    wave[: len(ramp) // 5] *= ramp[::5][: len(ramp) // 5]
    wave[-len(ramp) :] *= ramp[::-1]
    return wave
