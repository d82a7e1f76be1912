"""Markdown in, safe HTML out: `render`. And whom such a text mentions: `find_mentions`.

HTML within the text is shown as text. A sanitiser with an allow-list reads over the result, so that nothing hangs on
the Markdown parser being right. Links go to http, https, mailto and to pages of the site. Images are shown from the
site alone: one from elsewhere would tell its server who reads this, so it becomes a link.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from encore.text.mentions import EVERYONE, MAX_MENTIONS, pieces

__all__ = ["MAX_BRACKETS", "MAX_CHARACTERS", "Mentions", "find_mentions", "render", "sanitise"]

MAX_CHARACTERS = 20_000
"""A longer text is shown as it is written."""
MAX_BRACKETS = 1_000
"""Opening ones, each of which may begin a link: they cost most. A text with more is shown as it is written, too."""
MAX_NESTING = 20
"""Of quotes and lists in one another; what is deeper is left out."""
HIGHEST_HEADING = 3
"""A page has headings of its own above those of a text."""

_ADDRESS = re.compile(r"(?:https?://|mailto:|#|/(?![/\\]))[^\s\\]*", re.IGNORECASE | re.ASCII)
_OWN_ADDRESS = re.compile(r"/(?![/\\])[^\s\\]*")
_LANGUAGE = re.compile(r"language-[A-Za-z0-9+#.-]{1,30}")
_NAME = re.compile(r"[a-z0-9_.-]{3,32}")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Mentions:
    """Whom a text mentions: exactly those whose names `render` marks."""

    usernames: tuple[str, ...]
    """In lower case and in order, each once; at most 20."""
    everyone: bool


def render(text: str, *, marks_everyone: bool = False) -> str:
    """The HTML for a text in Markdown: whatever the text, it holds no script and no attribute that could run one.

    Mentions become `<span class="mention" data-user="…">`; @everyone becomes one only with `marks_everyone`, for
    authors who may use it. Never fails, and takes a tenth of a second at most: what is too long for that is shown as
    it is written.
    """
    text = _SURROGATES.sub("\ufffd", text)
    if _is_read(text):
        return sanitise(_parser.render(text, {"marks_everyone": marks_everyone}))
    return sanitise(f"<p>{html.escape(text, quote=False)}</p>\n")


def find_mentions(text: str) -> Mentions:
    """Whom a text in Markdown mentions; nobody in code, in links, or behind a backslash."""
    if "@" not in text or not _is_read(text):
        return Mentions((), everyone=False)
    found: dict[str, object] = {"marks_everyone": True}
    _parser.parse(_SURROGATES.sub("\ufffd", text), found)
    names = found.get("mentions", {})
    assert isinstance(names, dict)
    return Mentions(tuple(name for name in names if name != EVERYONE), everyone=EVERYONE in names)


def _is_read(text: str) -> bool:
    return len(text) <= MAX_CHARACTERS and text.count("[") <= MAX_BRACKETS


def sanitise(markup: str) -> str:
    """The markup with nothing but what is allowed; doing it twice changes nothing more."""
    return _cleaner.clean(markup)


class _Parser(MarkdownIt):
    def validateLink(self, url: str) -> bool:
        return _ADDRESS.fullmatch(url) is not None


def _mark(state: StateCore) -> None:
    """The rule that comes last: headings below the page's, mentions, bare addresses, images from elsewhere."""
    names: dict[str, None] = state.env.setdefault("mentions", {})
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + HIGHEST_HEADING - 1)}"
        elif token.type == "inline" and token.children:
            token.children = list(_marked(state, token.children, names))


def _marked(state: StateCore, children: Sequence[Token], names: dict[str, None]) -> Iterator[Token]:
    links = 0
    for token in children:
        if token.type in ("link_open", "link_close"):
            links += token.nesting
            yield token
        elif token.type == "image":
            yield from _image(token, is_within_link=links > 0)
        elif token.type == "text" and links == 0:
            yield from _text(state, token, names)
        else:
            yield token


def _image(token: Token, *, is_within_link: bool) -> Iterator[Token]:
    address = str(token.attrGet("src"))
    if _OWN_ADDRESS.fullmatch(address):
        yield token
        return
    shown = Token("text", "", 0, content=_plain(token.children or ()) or address)
    yield from (shown,) if is_within_link else _link(address, shown)


def _plain(tokens: Sequence[Token]) -> str:
    return "".join(_plain(token.children) if token.children else token.content for token in tokens)


def _text(state: StateCore, token: Token, names: dict[str, None]) -> Iterator[Token]:
    for piece in pieces(token.content):
        plain = Token("text", "", 0, content=piece.text)
        if piece.kind == "mention" and _counts(
            piece.name, names, marks_everyone=state.env.get("marks_everyone", False)
        ):
            yield Token("mention", "span", 0, content=piece.text, meta={"name": piece.name})
        elif piece.kind == "link":
            address = state.md.normalizeLink(piece.text)
            yield from _link(address, plain) if state.md.validateLink(address) else (plain,)
        else:
            yield plain


def _counts(name: str, names: dict[str, None], *, marks_everyone: bool) -> bool:
    if name == EVERYONE:
        if marks_everyone:
            names[name] = None
        return marks_everyone
    if name not in names and len(names) - (EVERYONE in names) >= MAX_MENTIONS:
        return False
    names[name] = None
    return True


def _link(address: str, shown: Token) -> Iterator[Token]:
    yield Token("link_open", "a", 1, attrs={"href": address})
    yield shown
    yield Token("link_close", "a", -1)


def _render_mention(self: object, tokens: Sequence[Token], index: int, options: object, env: object) -> str:
    token = tokens[index]
    name, written = html.escape(str(token.meta["name"])), html.escape(token.content)
    if name == EVERYONE:
        return f'<span class="mention everyone">{written}</span>'
    return f'<span class="mention" data-user="{name}">{written}</span>'


def _filter(tag: str, attribute: str, value: str) -> str | None:
    """The last word on attributes whose values could do harm."""
    rules = {
        ("a", "href"): _ADDRESS,
        ("img", "src"): _OWN_ADDRESS,
        ("code", "class"): _LANGUAGE,
        ("span", "data-user"): _NAME,
    }
    rule = rules.get((tag, attribute))
    return value if rule is None or rule.fullmatch(value) else None


def _make_parser() -> _Parser:
    parser = _Parser("commonmark", {"html": False, "breaks": True, "xhtmlOut": False, "maxNesting": MAX_NESTING})
    # No tables: a line of few characters is a row of many cells.
    parser.enable("strikethrough")
    # Before the parser joins what was escaped with what was not: \@name mentions nobody.
    parser.core.ruler.before("text_join", "mark", _mark)
    parser.add_render_rule("mention", _render_mention)
    return parser


def _make_cleaner() -> nh3.Cleaner:
    headings = {f"h{number}" for number in range(HIGHEST_HEADING, 7)}
    words = {"a", "br", "code", "em", "img", "s", "span", "strong"}
    blocks = {"blockquote", "hr", "li", "ol", "p", "pre", "ul"}
    return nh3.Cleaner(
        tags=headings | words | blocks,
        attributes={
            "a": {"href", "title"},
            "code": {"class"},
            "img": {"alt", "src", "title"},
            "ol": {"start"},
            "span": {"data-user"},
        },
        tag_attribute_values={"span": {"class": {"mention", "mention everyone"}}},
        attribute_filter=_filter,
        set_tag_attribute_values={"img": {"loading": "lazy"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener",
    )


_parser = _make_parser()
_cleaner = _make_cleaner()
