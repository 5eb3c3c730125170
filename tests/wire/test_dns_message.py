from __future__ import annotations

import struct
import time
from contextlib import suppress

import dns.message
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kukuri_sidecar.errors import DecodeError, LocalProtocolError
from kukuri_sidecar.wire.dns_message import (
    MAX_EXPANDED_BYTES,
    MAX_JUMPS,
    MAX_MESSAGE_BYTES,
    MAX_RECORDS,
    MAX_TXT_STRINGS,
    DnsMessage,
    TxtRecord,
    decode_message,
    encode_answer,
)

labels = st.from_regex(r"[a-z0-9_]{1,12}", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
records = st.lists(
    st.builds(
        TxtRecord,
        names,
        st.integers(0, (1 << 31) - 1),
        st.lists(st.binary(max_size=40), min_size=1, max_size=3).map(tuple),
    ),
    max_size=5,
)
TXT = struct.pack(">HHIH", 16, 1, 30, 2) + b"\x01x"


def message(body: bytes, answers: int = 1, questions: int = 0) -> bytes:
    return struct.pack(">HHHHHH", 0, 0x8000, questions, answers, 0, 0) + body


@given(records)
def test_what_is_written_is_read(given_records: list[TxtRecord]) -> None:
    assert decode_message(encode_answer(given_records)) == DnsMessage(0, 0x8000, tuple(given_records))


@given(records)
@settings(max_examples=50)
def test_dnspython_reads_the_same(given_records: list[TxtRecord]) -> None:
    parsed = dns.message.from_wire(encode_answer(given_records, id=7), one_rr_per_rrset=True)
    found = [
        TxtRecord(rrset.name.to_text().removesuffix("."), rrset.ttl, tuple(rrset[0].strings))
        for rrset in parsed.answer
    ]
    assert (parsed.id, found) == (7, given_records)


@given(records)
@settings(max_examples=50)
def test_what_dnspython_writes_is_read(given_records: list[TxtRecord]) -> None:
    answer = dns.message.make_response(dns.message.make_query("Question.Example", "TXT"))
    for name, ttl_s, strings in given_records:
        text = " ".join('"' + "".join(f"\\{byte:03}" for byte in string) + '"' for string in strings)
        answer.answer.append(dns.rrset.from_text(f"{name}.", ttl_s, "IN", "TXT", text))
    parsed = decode_message(answer.to_wire())
    assert (parsed.id, parsed.records) == (answer.id, tuple(given_records))


def test_a_repeated_name_is_a_pointer() -> None:
    records = [TxtRecord("a.example", 1, (b"x",)), TxtRecord("b.example", 1, (b"y",))]
    assert encode_answer([records[0], records[0]]).count(b"\x07example") == 1
    assert encode_answer(records).count(b"\x07example") == 1


def test_other_types_and_classes_are_skipped() -> None:
    a_record = b"\x01a\x00" + struct.pack(">HHIH", 1, 1, 30, 4) + bytes(4)
    chaos = b"\x01a\x00" + struct.pack(">HHIH", 16, 3, 30, 2) + b"\x01x"
    assert decode_message(message(a_record + chaos + b"\x01A\x00" + TXT, 3)).records == (
        TxtRecord("a", 30, (b"x",)),
    )


def test_a_dot_in_a_label_is_no_border() -> None:
    assert decode_message(message(b"\x03a.b\x00" + TXT)).records[0].name == "a\\.b"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(11),
        message(b""),
        message(b"\x01a\x00" + TXT[:-1]),
        message(b"\x01a\x00" + TXT[:9]),
        message(b"\x05a"),
        message(b"\x01a"),
        message(b"\xc0"),
        message(b"\xc0\x0c" + TXT),  # at itself
        message(b"\xc0\x0e" + TXT),  # forwards
        message(b"\x01a\xc0\x0c" + TXT),  # a loop over a label
        message(b"\x40" + bytes(64) + TXT),  # 64: neither label nor pointer
        message(b"\x01a\x00" + struct.pack(">HHIH", 16, 1, 30, 2) + b"\x02x"),
        message(b"\x01a\x00\x00\x10", questions=1, answers=0),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match="dns"):
        decode_message(data)


def chain(jumps: int) -> bytes:
    """A message whose last name follows ``jumps`` pointers."""
    body, at = b"\x01a\x00" + TXT, 12
    for _ in range(jumps):
        at, body = 12 + len(body), body + b"\xc0" + bytes((at,)) + TXT
    return message(body, jumps + 1)


@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)])
def test_limits(over: int, fits: bool) -> None:
    long_name = b"".join(bytes((size,)) + b"a" * size for size in (63, 63, 63, 61 + over)) + b"\x00"
    strings = struct.pack(">HHIH", 16, 1, 30, MAX_TXT_STRINGS + over) + bytes(MAX_TXT_STRINGS + over)
    padding = MAX_MESSAGE_BYTES + over - len(message(b"\x01a\x00" + TXT))
    # 15 times a name of 255 bytes and a text of 2, then a name of 3 and a text that fills up.
    full_name = b"".join(bytes((size,)) + b"a" * size for size in (63, 63, 63, 61)) + b"\x00"
    rest = MAX_EXPANDED_BYTES - 15 * 257 - 3 + over
    last = b"\x01a\x00" + struct.pack(">HHIH", 16, 1, 30, rest) + bytes((rest - 1,)) + bytes(rest - 1)
    expanded = full_name + TXT + (b"\xc0\x0c" + TXT) * 14 + last
    for data in (
        message(long_name + TXT),
        message(b"\x01a\x00" + strings),
        message((b"\x00" + TXT) * (MAX_RECORDS + over), MAX_RECORDS + over),
        message(b"\x01a\x00" + TXT + bytes(padding)),
        chain(MAX_JUMPS + over),
        message(expanded, 16),
    ):
        if fits:
            assert decode_message(data).records
        else:
            with pytest.raises(DecodeError):
                decode_message(data)


@pytest.mark.parametrize(
    "records",
    [
        [TxtRecord("a" * 64, 1, (b"x",))],
        [TxtRecord("a..b", 1, (b"x",))],
        [TxtRecord("é", 1, (b"x",))],
        [TxtRecord(".".join(["a" * 63] * 4), 1, (b"x",))],
        [TxtRecord("a", 1, (bytes(256),))],
        [TxtRecord("a", 1, ())],
    ],
)
def test_what_dns_cannot_carry_is_our_bug(records: list[TxtRecord]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_answer(records)


def test_a_bomb_costs_no_time() -> None:
    """The message that keeps dnspython busy for 305 ms: names of many labels, repeated by pointers."""
    labels = b"\x01a" * 120 + b"\x00"
    bomb = message(labels + TXT + (b"\xc0\x0c" + TXT) * 63, 64)
    took = []
    for _ in range(3):
        start = time.process_time()
        with suppress(DecodeError):
            decode_message(bomb)
        took.append(time.process_time() - start)
    assert min(took) < 0.001 * len(bomb) / 1_024
