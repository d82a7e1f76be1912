"""The words of the demonstration."""

from __future__ import annotations

from dataclasses import dataclass

from encore.book_requests.models import Status
from encore.broadcasts.schemas import Kind

__all__ = [
    "BROADCASTS",
    "COMMENTS",
    "LISTENED",
    "REQUESTS",
    "THREADS",
    "Announced",
    "Asked",
    "Remark",
    "Said",
    "Thread",
]


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment on a track."""

    by: str
    at: float
    """Where, as a share of the track's length."""
    text: str
    answers: int | None = None
    """The number of the remark that it replies to."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the forum."""

    by: str
    text: str
    liked_by: tuple[str, ...] = ()
    answers: int | None = None
    """The number of the message that it replies to; 0 is the thread's first."""


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of the forum."""

    title: str
    hours_ago: float
    first: Said
    answers: tuple[Said, ...] = ()
    aside: tuple[int, str, Said] | None = None
    """A sub-thread: of which message, its title, its first message."""
    members: tuple[str, ...] = ()
    """Of a private thread."""
    followers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    """Who has read all of it."""
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a book."""

    by: str
    title: str
    author: str
    note: str
    hours_ago: float
    voters: tuple[str, ...] = ()
    decisions: tuple[tuple[Status, str], ...] = ()
    given: str = ""
    """A track of the album that it was fulfilled with."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A broadcast."""

    by: str
    text: str
    type: Kind
    hours_ago: float
    read_by: tuple[str, ...] = ()


COMMENTS = {
    "Platform Nine": (
        Remark("ann", 0.06, "That first chord is exactly what an empty station sounds like."),
        Remark("ben", 0.24, "Here the train comes in, doesn't it?"),
        Remark("cleo", 0.24, "It does! Two minutes late, as always.", answers=1),
        Remark("tom", 0.55, "@ann listen to the left hand here"),
        Remark("ann", 0.82, "And then it is gone again. Lovely."),
    ),
    "Window Seat": (
        Remark("ben", 0.12, "I can see the river."),
        Remark("ann", 0.47, "The same river again :)"),
    ),
    "Sleeper Car": (Remark("tom", 0.71, "I have not heard the end of this one yet. I always fall asleep."),),
    "Drizzle": (
        Remark("ann", 0.18, "Some of them do miss!"),
        Remark("ben", 0.63, "@cleo how many drops are there?"),
        Remark("cleo", 0.63, "I stopped counting at nine hundred.", answers=1),
    ),
    "First Frost": (Remark("ben", 0.35, "Close that window."),),
    "Chapter 1: The Lamp": (
        Remark("ann", 0.1, "I do not understand a word, and I want to know how it goes on."),
        Remark("tom", 0.52, "Is this where the letter comes?"),
    ),
}

LISTENED: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "Platform Nine": (("ann", "ben", "tom", "ada"), {"ben": 0.4}),
    "Window Seat": (("ann", "ben"), {}),
    "Sleeper Car": (("tom",), {"tom": 0.7}),
    "Drizzle": (("ann", "ben", "tom"), {}),
    "First Frost": (("ben",), {}),
    "Chapter 1: The Lamp": (("ann", "tom"), {"ann": 0.55}),
}
"""Who played what, and how far those came who stopped in the midst of it."""

THREADS = (
    Thread(
        "Welcome: how this forum works",
        hours_ago=620,
        first=Said(
            "ada",
            "Hello, and make yourself at home.\n\n* Be kind. There is a person behind every name.\n"
            "* Write `@name` to call somebody. Everybody else is called by the team only.\n"
            "* What you follow finds you: see the bell.\n\n"
            "If something is wrong, report the message. We look at all of them.",
            liked_by=("ann", "ben", "tom", "cleo"),
        ),
        readers=("ann", "ben", "tom", "cleo"),
        is_pinned=True,
    ),
    Thread(
        "What do you listen to when you cannot sleep?",
        hours_ago=52,
        first=Said(
            "ann", "It is three in the morning. *Sleeper Car* has ended twice. What comes next?", liked_by=("ben",)
        ),
        answers=(
            Said("ben", "Rain. Real rain, through a real window. Failing that, *Drizzle*.", liked_by=("ann", "cleo")),
            Said("tom", "The audiobook. I have never got further than the second chapter, and that is the point."),
            Said("cleo", "As the one who made it: thank you, I think? @tom", liked_by=("tom", "ann"), answers=2),
            Said("ann", "> and that is the point\n\nI tried it. It works. I know nothing about the ledger.", answers=2),
        ),
        aside=(
            1,
            "Recordings of real rain",
            Said("ben", "Collecting them here. Mine is from the porch, an hour long."),
        ),
        followers=("ben", "tom"),
        readers=("ann",),
    ),
    Thread(
        "How do you record at home without the fridge?",
        hours_ago=30,
        first=Said(
            "ben",
            "Every quiet passage of mine hums at 50 Hz. I *could* unplug the fridge. I forget to plug it in again.",
        ),
        answers=(
            Said(
                "cleo",
                "Put your car keys into the fridge. You will not leave without them.\n\n"
                "And a narrow filter afterwards:\n\n"
                "```\nhighpass 70\nnotch 50 q=30\nnotch 100 q=30\n```",
                liked_by=("ann", "ben", "tom", "ada"),
            ),
            Said("ben", "The keys. That is the best advice I have ever been given.", liked_by=("cleo",), answers=1),
        ),
        followers=("ben", "ann"),
        readers=("ben", "cleo"),
    ),
    Thread(
        "Before the next release",
        hours_ago=20,
        first=Said("ada", "Only us here. @cleo when is the fourth chapter ready, and may @tom announce it?"),
        answers=(Said("cleo", "When the fog lifts. On Friday, I hope."),),
        members=("tom", "cleo"),
        readers=("ada",),
    ),
    Thread(
        "Saturday: listening together at eight",
        hours_ago=9,
        first=Said(
            "tom",
            "*Night Trains* from beginning to end, on Saturday at eight. Comments on. Tea optional.",
            liked_by=("ann",),
        ),
        answers=(Said("ann", "I am in. @ben bring the tea."),),
        followers=("ann",),
        readers=("ann", "tom"),
    ),
)

REQUESTS = (
    Asked(
        "ben",
        "The Lighthouse Keeper's Other Job",
        "the keeper",
        "My grandmother used to tell it.",
        hours_ago=300,
        voters=("ann",),
        decisions=(
            (Status.APPROVED, ""),
            (Status.IN_PROGRESS, "The keeper reads it himself."),
            (Status.FULFILLED, "Here it is."),
        ),
        given="Chapter 1: The Lamp",
    ),
    Asked(
        "ann",
        "A Short History of Fog",
        "M. Hollis",
        "The second edition, if there is a choice: it has the chapter on harbours.",
        hours_ago=90,
        voters=("ben", "tom"),
        decisions=((Status.APPROVED, ""), (Status.IN_PROGRESS, "We look for a voice.")),
    ),
    Asked(
        "ann",
        "Timetables of the Northern Line, 1931",
        "",
        "All of it, please.",
        hours_ago=70,
        decisions=((Status.REJECTED, "Two thousand pages of numbers. We are sorry."),),
    ),
    Asked(
        "ben", "Knots for Beginners", "Ida Renn", "", hours_ago=26, voters=("ann",), decisions=((Status.APPROVED, ""),)
    ),
    Asked(
        "ben", "The Cartographer's Cat", "Ruth Amsel", "Any reader will do but me.", hours_ago=11, voters=("ann", "tom")
    ),
    Asked("ann", "Letters to an Unknown Baker", "", "", hours_ago=3),
)

BROADCASTS = (
    Announced(
        "cleo", "Small Weather is out: three pieces, and a window left open.", "success", 260, ("ann", "ben", "tom")
    ),
    Announced(
        "ada",
        "Tonight from two to half past two the site is being looked after. It may hiccup.",
        "warning",
        120,
        ("ben", "tom"),
    ),
    Announced(
        "cleo", "The Lighthouse Keeper's Other Job is complete. Chapter 3 is short, and foggy.", "info", 8, ("ben",)
    ),
)
