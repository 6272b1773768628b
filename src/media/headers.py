"""Boxes and chunks of MP4, Matroska and RIFF files, as far as headers are checked."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAX_MOOV_BYTES = 256 * 1024 * 1024


def riff_length(head: bytes) -> int:
    """Length in bytes by an AVI file's own header (RIFF); 0 for other files."""
    length = int.from_bytes(head[4:8], "little")
    return length + 8 if head[:4] == b"RIFF" and length != 0xFFFF_FFFF else 0  # all ones: it was never finished


def matroska_length(f: BinaryIO) -> int:
    """Length in bytes by a Matroska file's own header, the end of its Segment (RFC 8794, 9559); 0 where it is not given."""
    f.seek(0)
    data = f.read(4096)
    at = 0
    while at + 12 <= len(data):
        identity = data[at : at + 4]
        first = data[at + 4]
        length = 9 - first.bit_length() if first else 9
        if length > 8:
            return 0
        mask = (1 << 7 * length) - 1
        size = int.from_bytes(data[at + 4 : at + 4 + length], "big") & mask
        body = at + 4 + length
        if identity == b"\x18\x53\x80\x67":  # Segment
            return 0 if size == mask else body + size
        if identity != b"\x1a\x45\xdf\xa3":  # EBML header
            return 0
        at = body + size
    return 0


def mov_rotation(path: Path, track: int) -> int:
    """Clockwise degrees of the display matrix of the video track with this number (ISO 14496-12, tkhd); 0 without one.

    PyAV has the matrix on decoded frames only; the header is enough for the displayed size.
    """
    with open(path, "rb") as f:
        moov = _find_box(f, b"moov", os.fstat(f.fileno()).st_size)
    if moov is None:
        return 0
    for kind, trak in _boxes(moov):
        if kind != b"trak":
            continue
        boxes = dict(_boxes(trak))
        handler = dict(_boxes(boxes.get(b"mdia", b""))).get(b"hdlr", b"")
        if handler[8:12] == b"vide" and b"tkhd" in boxes:
            header = boxes[b"tkhd"]
            at, number = (52, 20) if header[:1] == b"\1" else (40, 12)
            if int.from_bytes(header[number : number + 4], "big") != track or len(header) < at + 8:
                continue
            a, b = struct.unpack(">ii", header[at : at + 8])
            return round(math.degrees(math.atan2(b, a))) % 360
    return 0


def _find_box(f: BinaryIO, wanted: bytes, size: int) -> bytes | None:
    """Content of a top-level box, found by its length fields alone."""
    at = 0
    while at + 8 <= size:
        f.seek(at)
        length, kind = struct.unpack(">I4s", f.read(8))
        head = 8
        if length == 1:
            length, head = int.from_bytes(f.read(8), "big"), 16
        elif length == 0:
            length = size - at
        if length < head:
            return None
        if kind == wanted:
            return f.read(length - head) if length <= _MAX_MOOV_BYTES else None
        at += length
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if length < 8:
            return
        yield kind, data[at + 8 : at + length]
        at += length
