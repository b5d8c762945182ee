"""What people see of values in a notebook: cards of facts, tables and pictures, as self-contained HTML.

Every text is escaped and cut, whoever chose it. Colours are the notebook's own, so that cards read well on
dark and on light. Tables say how many rows they leave out and pictures shrink, so that what one value shows
stays below `LARGEST` bytes and a notebook of many stays small.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

LARGEST = 300_000
"""Bytes of what one value shows, at most; the limits below keep it."""
TABLE = 80_000
"""Bytes of a table, at most."""
PICTURES = 150_000
"""Bytes of a row of pictures, without their captions, at most."""
LONGEST = 120
"""Characters of one text, at most; the rest is an ellipsis."""
QUALITY = 85
"""Of the WebP of pictures that are too large as they are."""
LINE = "1px solid rgba(128, 128, 128, 0.35)"
"""A border that shows on any ground."""


@dataclass(frozen=True)
class Picture:
    """A picture with what is said about it.

    Attributes:
        content: a PNG or a WebP.
        alt: what it shows, for those who do not see it.
        width: in pixels of the page; the height follows.
        lines: of its caption.
        heat: a PNG to lay over it.
    """

    content: bytes
    alt: str
    width: int
    lines: Sequence[str] = ()
    heat: bytes | None = None


def card(title: str, *parts: str) -> str:
    """What one value shows: its name, and parts that are HTML already."""
    return f'<div style="max-width:62em"><p><b>{_text(title)}</b></p>{"".join(parts)}</div>'


def sentence(facts: Mapping[str, Any]) -> str:
    """Facts in a row: "score 3.2 · seed 0"; without those that are None, or not so."""
    told = [
        f'<span style="opacity:0.7">{_text(name)}</span> {_text(value)}'
        for name, value in facts.items()
        if value is not None and value is not False
    ]
    return f"<p>{' · '.join(told)}</p>" if told else ""


def note(text: str) -> str:
    """A remark below or above what it is about."""
    return f'<p style="opacity:0.7">{_text(text)}</p>'


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = "") -> str:
    """A table; of one that is too long its beginning, and how many rows follow."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    shown, room, left_out = [], TABLE, 0
    for row in rows:
        cells = "" if left_out else "".join(f"<td>{_text(value)}</td>" for value in row)
        room -= len(f"<tr>{cells}</tr>".encode())
        if room > 0:
            shown.append(f"<tr>{cells}</tr>")
        else:
            left_out += 1
    title = f"<caption>{_text(caption)}</caption>" if caption else ""
    more = note(f"and {left_out:,} rows more") if left_out else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(shown)}</tbody></table>{more}"


def pictures(shown: Sequence[Picture]) -> str:
    """Pictures side by side, each with its caption; nothing where there is none."""
    if not shown:
        return ""
    room = PICTURES * 3 // 4 // len(shown)  # four letters of a data: address stand for three bytes
    figures = "".join(_figure(picture, room) for picture in shown)
    return f'<div style="display:flex;flex-wrap:wrap;gap:0.6em;align-items:flex-start">{figures}</div>'


def line(values: Sequence[float], *, alt: str) -> str:
    """A small curve of finite values from the first to the last, in the colour of the text."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    stride = max(1, len(values) // 200)
    points = " ".join(
        f"{index * 220 / (len(values) - 1):.1f},{40 - 38 * (value - low) / ((high - low) or 1):.1f}"
        for index, value in list(enumerate(values))[::stride]
    )
    told = f"{alt}, from {cell(values[0])} to {cell(values[-1])}"
    return (
        f'<p><svg width="220" height="42" viewBox="0 0 220 42" role="img" aria-label="{_text(told)}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg><br>'
        f'<span style="opacity:0.7">{_text(told)}</span></p>'
    )


def cell(value: Any, *, figures: int = 4) -> str:
    """A value of a table as people read it: so many figures, and a dash for what is not there."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.{figures}g}"
    return printable(str(value))


def printable(text: str) -> str:
    """File and class names come from anywhere: control characters are shown, not obeyed."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def data_uri(kind: str, content: bytes) -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _text(value: Any) -> str:
    """A value as text that is no HTML, not even in an attribute."""
    text = cell(value[: LONGEST + 1] if isinstance(value, str) else value)
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _figure(picture: Picture, room: int) -> str:
    shown = _image(picture.content, room * 7 // 8, alt=picture.alt, style="display:block;width:100%;margin:0")
    over = "position:absolute;inset:0;width:100%;height:100%;margin:0;image-rendering:pixelated;opacity:0.8"
    heat = "" if picture.heat is None else _image(picture.heat, room // 8, alt="", style=over)
    caption = "<br>".join(_text(text) for text in picture.lines)
    return (
        f'<figure style="margin:0;width:{picture.width}px;overflow-wrap:anywhere">'
        f'<div style="position:relative;border:{LINE}">{shown}{heat}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _image(content: bytes, room: int, *, alt: str, style: str) -> str:
    """An image, or what it would show where its bytes are damaged."""
    try:
        kept = fitted(content, room=room)
    except (OSError, ValueError, Image.DecompressionBombError):
        return f"<em>damaged: {_text(alt)}</em>"
    kind = "image/webp" if kept[:4] == b"RIFF" else "image/png"
    return f'<img src="{data_uri(kind, kept)}" alt="{_text(alt)}" style="{style}">'


def fitted(content: bytes, *, room: int) -> bytes:
    """The picture in at most so many bytes: as it is, or as WebP, half as wide and high until it fits."""
    if len(content) <= room:
        return content
    with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
        picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    while True:
        sink = io.BytesIO()
        picture.save(sink, "WEBP", quality=QUALITY)
        if sink.tell() <= room or max(picture.size) < 16:
            return sink.getvalue()
        picture = picture.reduce(2)
