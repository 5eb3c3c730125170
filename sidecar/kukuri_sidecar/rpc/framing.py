"""Bytes in, frames out: newline-delimited JSON, or Content-Length headers as editors use. No I/O.

The first non-blank byte decides (api.md section 2), the output mirrors the input. A frame over the limit is
skipped, never buffered; it is reported in its place and the stream goes on behind it. How the input was cut
into pieces makes no difference.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal

MAX_FRAME_BYTES = 1 << 20  # api.md section 2; without the newline or the header
MAX_HEADER_BYTES = 4096  # ours: real headers have 30 bytes; without an end there is no next frame to find

Framing = Literal["ndjson", "lsp"]

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_HEADER_END: Final = b"\r\n\r\n"


class Fault(Enum):
    """Stands in the list of frames where there should be one."""

    OVERSIZE = "a frame over the limit was skipped"
    BROKEN = "a header block names no length: no further frame can be found"


Frame = bytes | Fault


class Framer:
    """One stream. ``framing`` is None until the input has decided, unless it was given."""

    __slots__ = (
        "_body_bytes",
        "_bom_possible",
        "_broken",
        "_buffer",
        "_limit",
        "_searched",
        "_skip_bytes",
        "_skipping_line",
        "_started",
        "framing",
    )

    def __init__(self, framing: Framing | None = None, limit: int = MAX_FRAME_BYTES) -> None:
        self.framing = framing
        self._limit = limit
        self._buffer = bytearray()
        self._bom_possible = True
        self._started = False
        self._broken = False
        self._searched = 0  # lines: no newline before here, so that a long line costs linear time
        self._skipping_line = False
        self._body_bytes: int | None = None  # headers: length of the frame being read
        self._skip_bytes = 0  # headers: what is left of a frame over the limit

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes, return the frames that are complete; after BROKEN nothing comes any more."""
        if self._broken:
            return []
        self._buffer += data
        if not self._started and not self._start():
            return []
        return self._headers() if self.framing == "lsp" else self._lines()

    def wrap(self, body: bytes) -> bytes:
        """Return ``body`` as a frame to write."""
        if self.framing == "lsp":
            return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        return body + b"\n"

    def _start(self) -> bool:
        """Skip a byte order mark and blank lines, then decide; False while there is nothing to decide by."""
        buffer = self._buffer
        if self._bom_possible:
            if _BOM.startswith(buffer) and len(buffer) < len(_BOM):
                return False
            self._bom_possible = False
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
        self._skip_blank()
        if not buffer:
            return False
        if self.framing is None:
            self.framing = "lsp" if bytes(buffer[:1]) in (b"C", b"c") else "ndjson"
        self._started = True
        return True

    def _skip_blank(self) -> None:
        buffer = self._buffer
        del buffer[: len(buffer) - len(buffer.lstrip(_BLANK))]

    def _lines(self) -> list[Frame]:
        buffer = self._buffer
        out: list[Frame] = []
        start = 0
        search = self._searched
        while (end := buffer.find(b"\n", search)) >= 0:
            if self._skipping_line:
                self._skipping_line = False
            else:
                line = bytes(buffer[start:end]).removesuffix(b"\r")
                if len(line) > self._limit:
                    out.append(Fault.OVERSIZE)
                elif line.strip(_BLANK):
                    out.append(line)
            start = search = end + 1
        del buffer[:start]
        if not self._skipping_line and len(buffer) - buffer.endswith(b"\r") > self._limit:
            out.append(Fault.OVERSIZE)
            self._skipping_line = True
        if self._skipping_line:
            buffer.clear()
        self._searched = len(buffer)
        return out

    def _headers(self) -> list[Frame]:
        buffer = self._buffer
        out: list[Frame] = []
        while True:
            skipped = min(self._skip_bytes, len(buffer))
            del buffer[:skipped]
            self._skip_bytes -= skipped
            if self._skip_bytes:
                return out
            if self._body_bytes is None:
                fault = self._header()
                if fault is not None:
                    out.append(fault)
                if self._broken or (fault is None and self._body_bytes is None):
                    return out
            elif len(buffer) >= self._body_bytes:
                out.append(bytes(buffer[: self._body_bytes]))
                del buffer[: self._body_bytes]
                self._body_bytes = None
            else:
                return out

    def _header(self) -> Fault | None:
        """Read one header block if it is complete: sets ``_body_bytes``, or ``_skip_bytes`` with a fault."""
        self._skip_blank()
        end = self._buffer.find(_HEADER_END)
        if end < 0 and len(self._buffer) < MAX_HEADER_BYTES + len(_HEADER_END):
            return None
        length = _content_length(bytes(self._buffer[:end])) if 0 <= end <= MAX_HEADER_BYTES else None
        if length is None:
            self._broken = True
            self._buffer.clear()
            return Fault.BROKEN
        del self._buffer[: end + len(_HEADER_END)]
        if length > self._limit:
            self._skip_bytes = length
            return Fault.OVERSIZE
        self._body_bytes = length
        return None


def _content_length(block: bytes) -> int | None:
    for line in block.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            digits = value.strip()
            return int(digits) if digits.isdigit() and len(digits) < 20 else None
    return None
