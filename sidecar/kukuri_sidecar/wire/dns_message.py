"""DNS messages (RFC 1035) as far as endpoint records need them: TXT answers, read with bounds and written.

Reading costs at most 1,232 bytes, 64 records, 16 strings per TXT, 8 jumps per name with pointers strictly
backwards, and 4 KiB of expanded names and texts (trust.md M6). Other types and classes, the authority and the
additional section are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from kukuri_sidecar.errors import DecodeError, LocalProtocolError

MAX_MESSAGE_BYTES = 1_232  # what resolvers send without fragments (DNS flag day 2020); pkarr has 1,000
MAX_RECORDS = 64
MAX_TXT_STRINGS = 16
MAX_JUMPS = 8
MAX_EXPANDED_BYTES = 4_096
MAX_NAME_BYTES = 255  # RFC 1035 section 3.1, length bytes and root included
MAX_LABEL_BYTES = 63
MAX_STRING_BYTES = 255

FLAG_RESPONSE = 0x8000
FLAG_TRUNCATED = 0x0200
RCODE_MASK = 0x000F

_TXT, _IN = 16, 1
_HEADER = struct.Struct(">HHHHHH")
_RECORD = struct.Struct(">HHIH")  # type, class, ttl, size of the data
_QUESTION_TAIL_BYTES = 4
_POINTER = 0xC0
_MAX_POINTER = 0x3FFF


class TxtRecord(NamedTuple):
    """One TXT record of class IN; ``name`` is lower case, without a final dot."""

    name: str
    ttl_s: int
    strings: tuple[bytes, ...]


class DnsMessage(NamedTuple):
    """A message and its TXT answers."""

    id: int
    flags: int
    records: tuple[TxtRecord, ...]


def encode_answer(records: Sequence[TxtRecord], id: int = 0, flags: int = FLAG_RESPONSE) -> bytes:
    """Return a message that answers with ``records``; repeated names are pointers.

    LocalProtocolError for names and strings that DNS cannot carry.
    """
    out = bytearray(_HEADER.pack(id, flags, 0, len(records), 0, 0))
    written: dict[str, int] = {}
    for name, ttl_s, strings in records:
        if not strings or any(len(string) > MAX_STRING_BYTES for string in strings):
            raise LocalProtocolError(f"TXT strings of {[len(string) for string in strings]} bytes")
        _write_name(out, name, written)
        data = b"".join(bytes((len(string),)) + string for string in strings)
        out += _RECORD.pack(_TXT, _IN, ttl_s, len(data)) + data
    return bytes(out)


def decode_message(data: bytes) -> DnsMessage:
    """Parse a message. Raises DecodeError("dns") and nothing else."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError("dns", MAX_MESSAGE_BYTES, f"more than {MAX_MESSAGE_BYTES} bytes")
    if len(data) < _HEADER.size:
        raise DecodeError("dns", len(data), "ends inside the header")
    id_, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if questions + answers > MAX_RECORDS:
        raise DecodeError("dns", 4, f"more than {MAX_RECORDS} records")
    reader = _Reader(data)
    for _ in range(questions):
        reader.name()
        reader.take(_QUESTION_TAIL_BYTES)
    records = [record for _ in range(answers) if (record := reader.record()) is not None]
    return DnsMessage(id_, flags, tuple(records))


def _write_name(out: bytearray, name: str, written: dict[str, int]) -> None:
    labels = name.split(".")
    if sum(len(label) + 1 for label in labels) + 1 > MAX_NAME_BYTES:
        raise LocalProtocolError(f"DNS name of {len(name)} characters")
    for i, label in enumerate(labels):
        suffix = ".".join(labels[i:])
        if suffix in written:
            out += (_POINTER << 8 | written[suffix]).to_bytes(2, "big")
            return
        if len(out) <= _MAX_POINTER:
            written[suffix] = len(out)
        if not 1 <= len(label) <= MAX_LABEL_BYTES or not label.isascii():
            raise LocalProtocolError(f"no DNS label: {label!r}")
        out += bytes((len(label),)) + label.encode("ascii")
    out.append(0)


class _Reader:
    """A position in a message, and how many expanded bytes it may still yield."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = _HEADER.size
        self._left = MAX_EXPANDED_BYTES

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError("dns", len(self._data), f"{size} bytes expected from byte {self._at}")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def record(self) -> TxtRecord | None:
        """Read one record; None when it is no TXT of class IN."""
        name = self.name()
        type_, class_, ttl_s, size = _RECORD.unpack(self.take(_RECORD.size))
        start = self._at
        data = self.take(size)
        if (type_, class_) != (_TXT, _IN):
            return None
        self._spend(size)
        strings: list[bytes] = []
        at = 0
        while at < size:
            end = at + 1 + data[at]
            if end > size or len(strings) == MAX_TXT_STRINGS:
                raise DecodeError("dns", start + at, "TXT strings do not fit")
            strings.append(data[at + 1 : end])
            at = end
        return TxtRecord(name, ttl_s, tuple(strings))

    def name(self) -> str:
        """Read a name, following pointers; the position ends behind its first pointer or its root."""
        labels: list[str] = []
        size, jumps, resume = 1, 0, None
        limit = self._at  # a pointer must lead before the part of the name that it stands in
        while (length := self.take(1)[0]) != 0:
            at = self._at - 1
            if length >= _POINTER:
                target = (length & ~_POINTER) << 8 | self.take(1)[0]
                jumps += 1
                if target >= limit or jumps > MAX_JUMPS:
                    raise DecodeError("dns", at, "a pointer forwards, or too many")
                resume = self._at if resume is None else resume
                self._at = limit = target
                continue
            size += length + 1
            if length > MAX_LABEL_BYTES or size > MAX_NAME_BYTES:
                raise DecodeError("dns", at, "label or name too long")
            # A dot inside a label must not look like two labels.
            labels.append(self.take(length).decode("latin-1").lower().replace(".", "\\."))
        self._spend(size)
        if resume is not None:
            self._at = resume
        return ".".join(labels)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise DecodeError("dns", self._at, f"expands to more than {MAX_EXPANDED_BYTES} bytes")
