"""What a file is by its first bytes, where it is not what its name says."""

from __future__ import annotations

LFS_POINTER = "a pointer of Git LFS, in place of the file itself"

# First bytes, and what they say. Sources: the formats' own specifications, and file(1)'s magic.
_SIGNS = (
    (b"version https://git-lfs.github.com/spec/", LFS_POINTER),
    (b"/annex/objects/", "a pointer of git-annex, in place of the file itself"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML, as servers answer that refuse a download"),
    (b"#extm3u", "a playlist (HLS), which names other files"),
    (b"ffconcat", "a list of clips (ffconcat), which names other files"),
    (b"%pdf-", "a PDF"),
    (b"pk\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"rar!", "a RAR archive"),
    (b"\xd0\xcf\x11\xe0", "an old or protected Office file (.xls)"),
    (b"id3", "sound (MP3)"),
    (b"\x7felf", "a program"),
)
# FFmpeg's demuxer for each kind of picture: by name, since it would take a pattern such as frame_%d.png for many files.
_PICTURES = (
    (b"\xff\xd8\xff", "jpeg_pipe"),
    (b"\x89PNG\r\n\x1a\n", "png_pipe"),
    (b"BM", "bmp_pipe"),
    (b"II*\0", "tiff_pipe"),
    (b"MM\0*", "tiff_pipe"),
)


def kind_of(head: bytes) -> str:
    """What a file is that starts with these bytes, as far as it cannot be a clip; "" where it may be one."""
    if head and not head.strip(b"\0"):
        return "filled with zeros, as a copy or download that was broken off leaves it"
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return next((kind for sign, kind in _SIGNS if start.startswith(sign)), "")


def picture_format(head: bytes) -> str:
    """FFmpeg's demuxer for a picture that starts with these bytes; "" for anything else."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp_pipe"
    return next((name for sign, name in _PICTURES if head.startswith(sign)), "")


def hint_for(kind: str) -> str:
    """What to do about a file of such a kind."""
    if "LFS" in kind:
        return "fetch the file itself: git lfs install && git lfs pull"
    if "annex" in kind:
        return "fetch the file itself: git annex get"
    return "copy or download it again"
