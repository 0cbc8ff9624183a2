"""A file of text → its characters; where it is no UTF-8: what it is, and how it becomes that."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

from search.errors import DataError

WESTERN = "WINDOWS-1252"
"""What Western text is that is no UTF-8: as ISO 8859-1, but for the bytes 0x80 to 0x9f, which are
its dashes and quotation marks, and invisible controls there."""
BINARY = {
    b"PK\x03\x04": "a ZIP archive, as .docx, .odt and .xlsx are",
    b"PK\x05\x06": "an empty ZIP archive",
    b"\x1f\x8b": "compressed by gzip",
    b"%PDF-": "a PDF",
    b"\xd0\xcf\x11\xe0": "a document of an old Office program",
}
"""What files are that begin like this."""


def binary_kind(content: bytes) -> str | None:
    """Returns what a file is by its first bytes, if that is none of text."""
    return next((kind for start, kind in BINARY.items() if content.startswith(start)), None)


def as_utf8(path: Path, form: str = WESTERN) -> str:
    """Returns the command that writes a text as UTF-8."""
    return f"iconv -f {form} -t UTF-8 {shlex.quote(str(path))} > NEW"


def read_utf8(path: Path, characters: int | None) -> str:
    """Reads at least the first ``characters`` characters of a text, without the byte order mark.

    Raises:
        DataError: There is none at ``path``, or it is not UTF-8; says how it becomes that.
    """
    # No character, and no line end of Windows, has more than 4 bytes.
    limit = -1 if characters is None else 4 * characters + len(codecs.BOM_UTF8)
    try:
        limit = limit if limit < path.stat().st_size else -1
        with path.open("rb") as file:
            raw = file.read(limit)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give one text file (cat *.txt makes one)") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is UTF-16; convert it: {as_utf8(path, 'UTF-16')}")
    if kind := binary_kind(raw):
        raise DataError(f"{path} is {kind}, and no text; save its text as a plain file in UTF-8")
    text = raw.removeprefix(codecs.BOM_UTF8)
    try:
        # What is cut off at the limit may be cut in the middle of a character.
        return codecs.getincrementaldecoder("utf-8")().decode(text, final=len(raw) != limit)
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(text)
        line = raw.count(b"\n", 0, at) + 1
        raise DataError(
            f"{path} is not UTF-8: byte {at} (in line {line}) is 0x{raw[at]:02x}; convert it, "
            f"for example: {as_utf8(path)}"
        ) from None
