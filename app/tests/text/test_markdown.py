"""Markdown becomes HTML that can do no harm."""

from __future__ import annotations

import html.parser
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encore.text.markdown import MAX_BRACKETS, MAX_CHARACTERS, find_mentions, render, sanitise

TAGS = {
    *("a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "img", "li", "ol", "p", "pre", "s", "span"),
    *("strong", "ul"),
}
ATTRIBUTES = {
    "a": {"href", "title", "rel"},
    "code": {"class"},
    "img": {"src", "alt", "title", "loading"},
    "ol": {"start"},
    "span": {"class", "data-user"},
}
LONG = 8_000
"""Characters of the longest message of the forum."""
ADDRESS = re.compile(r"(https?://|mailto:|/[^/\\]|/$|#).*", re.IGNORECASE | re.DOTALL)


class _Reader(html.parser.HTMLParser):
    """Reads HTML as a page would, and fails at whatever is not allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert name in ATTRIBUTES.get(tag, ()), f"<{tag} {name}=…>"
            if name in ("href", "src"):
                assert ADDRESS.fullmatch(value or ""), value
        if tag == "a":
            assert dict(attrs).get("rel") == "nofollow noopener"
        if tag == "img":
            assert not (dict(attrs).get("src") or "").startswith(("//", "/\\", "h"))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")


def checked(text: str) -> str:
    """The HTML for a text, after all that has to hold for any text was checked."""
    result = render(text, marks_everyone=True)
    assert sanitise(result) == result
    reader = _Reader()
    reader.feed(result)
    reader.close()
    return result


ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<IMG SRC=`javascript:alert(1)`>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](java&#10;script:alert(1))",
    "[x](&#x6a;avascript:alert(1))",
    "[x](\x01javascript:alert(1))",
    "[x](<javascript:alert(1)>)",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](data:image/svg+xml,<svg onload=alert(1)>)",
    "[x](//evil.example)",
    "[x](/\\evil.example)",
    "[x](\\\\evil.example)",
    "[x](file:///etc/passwd)",
    "[x](blob:https://evil.example/1)",
    "[x]: javascript:alert(1)\n\n[x]",
    '[x](http://a "onmouseover=alert(1)")',
    '[x](http://a "\\"onmouseover=\\"alert(1)")',
    '![" onerror=alert(1) ](x)',
    '![" onerror="alert(1)](/x.png)',
    '![a](/x.png "\\" onerror=\\"alert(1)")',
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "![x](https://evil.example/pixel.gif)",
    "![x](//evil.example/pixel.gif)",
    "<javascript:alert(1)>",
    "<data:text/html,x>",
    '<https://a.example/"onmouseover=alert(1)>',
    'https://a.example/"onmouseover=alert(1)',
    "https://a.example/'><svg/onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<svg/onload=alert(1)>",
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
    '<math><mi//xlink:href="data:x,<script>alert(4)</script>">',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>@import 'https://evil.example'</style>",
    "<!--><img src=x onerror=alert(1)>-->",
    "<![CDATA[<img src=x onerror=alert(1)>]]>",
    "<?php alert(1) ?>",
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "@<b>ann</b>",
    '@"onmouseover="alert(1)',
    '@ann"onmouseover=alert(1)',
    "@ann<script>alert(1)</script>",
    '```"onmouseover=alert(1)\nx\n```',
    "```<script>\nx\n```",
    "```js onload=alert(1)\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>alert(1)</script>`",
    "    <script>alert(1)</script>",
    "# <script>alert(1)</script>",
    "> <script>alert(1)</script>",
    "- <img src=x onerror=alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\\<script>alert(1)</script>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "a\0<script\0>alert(1)</script>",
    "\ud800<script>alert(1)</script>\udfff",
    "[[x](javascript:alert(1))](http://a)",
    "[![x](javascript:alert(1))](http://a)",
    "[http://a](http://b) [@ann](http://b)",
    '<x@"onmouseover=alert(1)>',
]


@pytest.mark.parametrize("text", ATTACKS)
def test_an_attack_is_shown_as_text_when_it_is_rendered(text: str) -> None:
    result = checked(text)
    assert "<script" not in result.lower()
    assert "<svg" not in result.lower()


@given(
    st.text(alphabet="<>\"'&@[]()!`*_~#-/\\: \n\tahnscriptjvwonerlm=0;.+") | st.text(),
    st.lists(st.sampled_from(ATTACKS), max_size=3),
)
@settings(max_examples=150, deadline=None)
def test_the_html_is_harmless_and_a_fixed_point_of_the_sanitiser_whatever_the_text(
    text: str, attacks: list[str]
) -> None:
    checked(text)
    checked(text.join([*attacks, ""]))


@given(st.sampled_from(ATTACKS), st.sampled_from(ATTACKS), st.text(max_size=5))
@settings(max_examples=100, deadline=None)
def test_the_sanitiser_alone_makes_markup_harmless_and_changes_nothing_twice(one: str, two: str, between: str) -> None:
    once = sanitise((one + between + two).replace("\ud800", "").replace("\udfff", ""))
    assert sanitise(once) == once
    reader = _Reader()
    reader.feed(once)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("one\ntwo", "<p>one<br>\ntwo</p>\n"),
        ("**b** *i* ~~s~~ `c`", "<p><strong>b</strong> <em>i</em> <s>s</s> <code>c</code></p>\n"),
        ("# Title\n## Next", "<h3>Title</h3>\n<h4>Next</h4>\n"),
        ("###### Six", "<h6>Six</h6>\n"),
        ("```python\nx = 1\n```", '<pre><code class="language-python">x = 1\n</code></pre>\n'),
        ('```"x\n1\n```', "<pre><code>1\n</code></pre>\n"),
        ("3. three", '<ol start="3">\n<li>three</li>\n</ol>\n'),
        ("[here](/forum/7)", '<p><a href="/forum/7" rel="nofollow noopener">here</a></p>\n'),
        (
            "see https://example.org/a.",
            '<p>see <a href="https://example.org/a" rel="nofollow noopener">https://example.org/a</a>.</p>\n',
        ),
        ("![cover](/covers/1.png)", '<p><img src="/covers/1.png" alt="cover" loading="lazy"></p>\n'),
        ("![cover](https://a.org/1.png)", '<p><a href="https://a.org/1.png" rel="nofollow noopener">cover</a></p>\n'),
        ("[![c](http://a.org/1)](http://b.org)", '<p><a href="http://b.org" rel="nofollow noopener">c</a></p>\n'),
        ("[x](javascript:a)", "<p>[x](javascript:a)</p>\n"),
        ("<b>hi</b>", "<p>&lt;b&gt;hi&lt;/b&gt;</p>\n"),
        ("hi @Ann.", '<p>hi <span class="mention" data-user="ann">@Ann</span>.</p>\n'),
        ("@a_b_c", '<p><span class="mention" data-user="a_b_c">@a_b_c</span></p>\n'),
        ("@everyone", "<p>@everyone</p>\n"),
        ("| a |\n|---|\n| b |", "<p>| a |<br>\n|---|<br>\n| b |</p>\n"),
    ],
)
def test_markdown_is_rendered_when_it_means_something(text: str, result: str) -> None:
    assert render(text) == result


def test_everyone_is_marked_when_the_author_may_use_it() -> None:
    assert render("hi @everyone", marks_everyone=True) == '<p>hi <span class="mention everyone">@everyone</span></p>\n'


@pytest.mark.parametrize(
    ("text", "names", "everyone"),
    [
        ("@ann and **@ben** and\n> @kim", ("ann", "ben", "kim"), False),
        ("\\@ann `@ben` [@kim](http://a) <https://x.org/@tom> https://x.org/@zoe", (), False),
        ("```\n@ann\n```\n\n    @ben\n", (), False),
        ("@everyone @ann", ("ann",), True),
        ("`@everyone`", (), False),
        ("no one", (), False),
        ("@ann" + " " * MAX_CHARACTERS, (), False),
        ("\ud800 @ann", ("ann",), False),
    ],
)
def test_mentions_are_found_when_the_text_is_markdown(text: str, names: tuple[str, ...], everyone: bool) -> None:
    found = find_mentions(text)
    assert (found.usernames, found.everyone) == (names, everyone)


@given(
    st.text(alphabet="@anbe `*_[]()\\\n>.:/h")
    | st.lists(st.sampled_from(["@ann", "@everyone", "`", "**", " ", "\\"])).map("".join)
)
@settings(max_examples=150, deadline=None)
def test_those_are_mentioned_whose_names_are_marked_whatever_the_text(text: str) -> None:
    found = find_mentions(text)
    result = render(text, marks_everyone=True)
    assert set(re.findall(r'data-user="([^"]+)"', result)) == set(found.usernames)
    assert ('class="mention everyone"' in result) == found.everyone


def test_only_some_names_are_marked_when_there_are_too_many() -> None:
    text = " ".join(f"@name{number}" for number in range(50)) + " @name3 @everyone"
    assert len(find_mentions(text).usernames) == 20
    assert find_mentions(text).everyone
    assert render(text).count("data-user") == 21


def test_a_text_is_shown_as_it_is_written_when_it_is_too_long() -> None:
    assert render("*[*" * (MAX_BRACKETS + 1)) == f"<p>{'*[*' * (MAX_BRACKETS + 1)}</p>\n"
    assert render("<*x*>" * MAX_CHARACTERS) == f"<p>{'&lt;*x*&gt;' * MAX_CHARACTERS}</p>\n"


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "[",
            "![",
            "*a ",
            "*a _b ",
            "_a",
            "<",
            ">",
            "> ",
            "- ",
            "1. ",
            "![a",
            "[a](",
            "[a](<b",
            "&",
            "~~a",
            "@",
            "@ann ",
        ),
        *(
            "https://",
            "\n",
            "\\",
            "<![CDATA[",
            "<!--",
            "```\n",
            ">" * 20 + "a\n",
            "&#x41;",
            '[a](b "',
            "[a]: ",
            "a[",
            "*[",
        ),
        *("`[", "<a[", "][", "[](x", "!", "|a|\n|-|\n", "[a]: /x\n", "**a __b ", "\ud83d", " - a\n ", "``` `` "),
    ],
)
def test_the_time_is_short_when_the_text_is_hostile(unit: str) -> None:
    text = (unit * LONG)[:LONG]
    if text.count("[") > MAX_BRACKETS:
        text = unit * (MAX_BRACKETS // unit.count("["))
    began = time.process_time()
    result = render(text)
    find_mentions(text)
    # 0.1 s at most on a quiet machine; what is quadratic takes many seconds.
    assert time.process_time() - began < 2
    assert len(result) < 40 * LONG


@pytest.mark.parametrize(
    ("before", "after"), [("[", "](/a)"), ("![", "](/a)"), ("**a ", "**"), ("> ", ""), ("- ", ""), ("*[", "](/a)*")]
)
def test_nothing_fails_when_the_nesting_is_deep(before: str, after: str) -> None:
    result = render(f"y\n\n{before * 900}x{after * 900}")
    assert result.startswith("<p>y</p>\n")
    assert sanitise(result) == result
