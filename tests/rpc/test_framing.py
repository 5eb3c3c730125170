"""Frames come out the same however the bytes were cut, and nothing is ever buffered beyond the limit."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kukuri_sidecar.rpc.framing import MAX_FRAME_BYTES, MAX_HEADER_BYTES, Fault, Frame, Framer, Framing

LIMIT = 16
BOM = b"\xef\xbb\xbf"
PIECES = [
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"{}",
    b"[",
    b"x" * LIMIT,
    b"x" * (LIMIT + 1),
    b"\xff",
    BOM,
    b"\xe2\x80\xa8",
]
HEADERS = [
    b"Content-Length: 2\r\n\r\n",
    b"content-length:16\r\n\r\n",
    b"Content-Length: 17\r\nX: y\r\n\r\n",
    b"X: y\r\n\r\n",
    b"c",
    b"\r\n\r\n",
    b"{}",
    b"x" * LIMIT,
    b"\r\n",
]


def frames(*chunks: bytes, framing: Framing | None = None, limit: int = LIMIT) -> list[Frame]:
    framer = Framer(framing, limit)
    return [frame for chunk in chunks for frame in framer.feed(chunk)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.integers(0, 10_000), max_size=12))
@example([BOM, BOM, b"{}", b"\n"], [3])
@example([b" ", BOM, b"{}", b"\n"], [1])
@example([b"x" * LIMIT, b"\r", b"\n"], [LIMIT, LIMIT + 1])
@example([b"x" * LIMIT, b"\r", b"\r", b"\n"], [LIMIT + 1])
def test_any_cut_of_lines_gives_the_same_frames(pieces: list[bytes], places: list[int]) -> None:
    data = b"".join(pieces)
    whole = frames(data)
    assert frames(*cut(data, places)) == whole
    assert frames(*(bytes([byte]) for byte in data)) == whole


@given(st.lists(st.sampled_from(HEADERS), max_size=20), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cut_of_headers_gives_the_same_frames(pieces: list[bytes], places: list[int]) -> None:
    data = b"Content-Length: 1\r\n\r\nx" + b"".join(pieces)
    whole = frames(data)
    assert frames(*cut(data, places)) == whole
    assert frames(*(bytes([byte]) for byte in data)) == whole


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_any_bytes_give_frames_within_the_limit_and_never_raise(data: bytes, places: list[int]) -> None:
    got = frames(*cut(data, places))
    assert got == frames(data)
    assert all(isinstance(frame, Fault) or len(frame) <= LIMIT for frame in got)


@given(st.lists(st.binary(min_size=1, max_size=LIMIT)), st.sampled_from(["ndjson", "lsp"]))
def test_what_is_wrapped_is_read_back(bodies: list[bytes], framing: Framing) -> None:
    if framing == "ndjson":
        bodies = [b"{" + body.replace(b"\n", b"").replace(b"\r", b"")[2:] + b"}" for body in bodies]
    framer = Framer(framing, LIMIT)
    assert frames(*map(framer.wrap, bodies), framing=framing) == bodies


@pytest.mark.parametrize(("size", "fits"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_line_at_the_limit(size: int, fits: bool, end: bytes) -> None:
    """A line that is too long costs one fault in its place; the stream goes on behind it."""
    line = b"{" * size
    assert frames(b"{}\n", line + end, b"[]\n") == [b"{}", line if fits else Fault.OVERSIZE, b"[]"]


@pytest.mark.parametrize(("size", "fits"), [(LIMIT - 1, True), (LIMIT, True), (LIMIT + 1, False)])
def test_header_frame_at_the_limit(size: int, fits: bool) -> None:
    wrap = Framer("lsp").wrap
    body = b"x" * size
    assert frames(wrap(b"{}"), wrap(body), wrap(b"[]")) == [b"{}", body if fits else Fault.OVERSIZE, b"[]"]


def test_the_limit_of_the_contract_is_one_mebibyte() -> None:
    body = b'"' + b"a" * (MAX_FRAME_BYTES - 2) + b'"'
    framer = Framer("ndjson")
    assert framer.feed(body + b"\n") == [body]
    assert framer.feed(b" " + body + b"\n{}\n") == [Fault.OVERSIZE, b"{}"]


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
def test_a_frame_over_the_limit_is_not_buffered(framing: Framing) -> None:
    framer = Framer(framing, LIMIT)
    framer.feed(b"Content-Length: 1000000\r\n\r\n" if framing == "lsp" else b"{")
    for _ in range(1000):
        framer.feed(b"x" * 900)
        assert len(framer._buffer) <= 900


@pytest.mark.parametrize(
    ("start", "framing"),
    [
        (b"{}\n", "ndjson"),
        (b"[]\n", "ndjson"),
        (b"\n\r\n  \t{}\n", "ndjson"),
        (BOM + b"{}\n", "ndjson"),
        (b"nonsense\n", "ndjson"),
        (b"Content-Length: 2\r\n\r\n{}", "lsp"),
        (b"content-length: 2\r\n\r\n{}", "lsp"),
        (BOM + b"\r\nCONTENT-LENGTH:2\r\nContent-Type: application/json\r\n\r\n{}", "lsp"),
        (b" \n", None),
        (b"", None),
        (BOM[:2], None),
    ],
)
def test_the_first_byte_decides(start: bytes, framing: Framing | None) -> None:
    framer = Framer()
    framer.feed(start)
    assert framer.framing == framing


def test_text_is_passed_through_untouched() -> None:
    """Escapes, U+2028 and bad UTF-8 inside a line are the parser's business, blank lines nobody's."""
    lines = [b'"\\r\\n"', '"\u2028"'.encode(), b'"\xff\xfe"']
    assert frames(b"\n \r\n".join([b"", *lines, b""]), limit=100) == lines


@pytest.mark.parametrize(
    "block",
    [
        b"Content-Type: x\r\n\r\n",
        b"Content-Length: \r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 1e3\r\n\r\n",
        b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
        b"Content-Length: 2" + b" " * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"x" * (MAX_HEADER_BYTES + 4),
    ],
)
def test_a_header_without_a_length_ends_the_stream(block: bytes) -> None:
    first = b"Content-Length: 2\r\n\r\n{}"
    assert frames(first + block + first) == [b"{}", Fault.BROKEN]
    assert frames(*(bytes([byte]) for byte in first + block + first)) == [b"{}", Fault.BROKEN]


def test_the_largest_header_is_read() -> None:
    padding = MAX_HEADER_BYTES - len(b"Content-Length: 2\r\nX: ")
    assert frames(b"Content-Length: 2\r\nX: " + b"y" * padding + b"\r\n\r\n{}") == [b"{}"]
