"""Objectives as text: the formulas that `repr` prints, read back.

formula  = ["-"] term (("+" | "-") term)*
term     = [number "*"] readout              0.5*blocks.2.ffn:1 - 2*head(blocks.5, 2)
readout  = address | function "(" arguments ")"

The functions are those of `vitscope.dream`, with their arguments in order. Images and vectors are named by
their files: what `repr` prints of them is a mark, which does not hold them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitscope.dream.heads import attention, head
from vitscope.dream.likeness import caricature, distance, inversion
from vitscope.dream.objectives import Objective, channel, direction, logit, unit
from vitscope.errors import BadValue, MissingPath, suggestion

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_FACTOR = re.compile(rf"\s*({_NUMBER})\s*\*")
_SIGN = re.compile(r"\s*([+-])")
_FUNCTION = re.compile(r"\s*(\w+)\s*\(")
_WORD = re.compile(r"\s*([^\s+*()-]+)")
_END = re.compile(r"\s*\)")
_REST = re.compile(r"\s*$")
_MARK = re.compile(r"image #[0-9a-f]{8}")

_AT = r"\s*([^\s,()@]+(?:@\w+(?:,\d+)?)?)\s*"
_COUNT = r",\s*(\d+)\s*"
_FILE = r""",\s*("[^"]+"|'[^']+'|[^,()"']+)"""
_CLASS = r"""("[^"]+"|'[^']+'|[^()"'](?:[^()]|\([^()]*\))*)"""
_WHERE = r"(?:,\s*([\w:,]+)\s*)?"


@dataclass(frozen=True)
class _Function:
    """How a function is written, what its arguments look like, and what it makes of them."""

    usage: str
    arguments: re.Pattern[str]
    make: Callable[..., Objective]


def parse(text: str) -> Objective:
    """The objective that a formula says; of an address, its unit.

    Args:
        text: such as "blocks.5.ffn:40", "-blocks.5.ffn:40", "0.5*blocks.2.ffn:1 + 2*logit(207)",
            "head(blocks.5, 2)", "attention(blocks.5, 2, cls -> center)" or "caricature(blocks.5, dog.jpg)".
            A file whose name has commas, quotes or parentheses stands in quotes.

    Raises:
        BadValue: the text does not follow the grammar, or calls what there is not; a caret or the nearest
            name says where.
        BadAddress: an address in it does not follow its grammar, or names no unit.
        MissingPath: there is no such file.

    >>> parse("0.5*blocks.5.ffn:40 - blocks.5.ffn:41")
    0.5*unit(blocks.5.ffn:40) - 1.0*unit(blocks.5.ffn:41)
    """
    sign = _SIGN.match(text)
    found, position = _term(text, sign.end() if sign else 0)
    total = -found if sign and sign[1] == "-" else found
    while not _REST.match(text, position):
        sign = _SIGN.match(text, position)
        if sign is None:
            raise _stopped(text, position, "+ or - between two terms")
        found, position = _term(text, sign.end())
        total = total - found if sign[1] == "-" else total + found
    return total


def _term(text: str, position: int) -> tuple[Objective, int]:
    """One term, and where it ends."""
    factor = _FACTOR.match(text, position)
    found, end = _readout(text, factor.end() if factor else position)
    return (float(factor[1]) * found if factor else found), end


def _readout(text: str, position: int) -> tuple[Objective, int]:
    call, word = _FUNCTION.match(text, position), _WORD.match(text, position)
    if call is None:
        if word is None:
            raise _stopped(text, position, "an address, as blocks.6.ffn:412, or a function of one")
        return unit(word[1]), word.end()
    function = _FUNCTIONS.get(call[1])
    if function is None:
        usages = "".join(f"\n  {each.usage}" for each in _FUNCTIONS.values())
        raise BadValue(f"no function {call[1]!r}.{suggestion(call[1], _FUNCTIONS)} There are:{usages}")
    given = function.arguments.match(text, call.end())
    end = given and _END.match(text, given.end())
    if given is None or end is None:
        raise BadValue(f"{call[1]} is written {function.usage}, not {text[call.start(1) :]!r}")
    return function.make(*given.groups()), end.end()


def _stopped(text: str, position: int, expected: str) -> BadValue:
    shown = len(text) - len(text[position:].lstrip())
    caret = " " * (len("not an objective: '") + shown) + "^"
    return BadValue(f"not an objective: {text!r}\n{caret} expected {expected}")


def _named(text: str) -> str:
    """The name of a file or a class, without its quotes."""
    text = text.strip()
    return text[1:-1] if text[0] in "\"'" else text


def _image(text: str) -> str:
    name = _named(text)
    if _MARK.fullmatch(name):
        raise BadValue(f"{name!r} is a mark, which does not hold the image: name the file it came from")
    return name


def _logit(text: str) -> Objective:
    name = _named(text)
    return logit(int(name) if name.isdigit() else name)


def _direction(site: str, file: str, where: str | None) -> Objective:
    path = Path(_named(file))
    if not path.is_file():
        raise MissingPath(f"no such file: {path}")
    try:
        vector = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadValue(f"cannot read {path} as a .npy file: {error}") from error
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "fiu":
        shape = getattr(vector, "shape", "several arrays")
        raise BadValue(f"a direction is one row of numbers; {path} holds {shape}")
    return direction(site, vector.tolist(), where=where)


def _attention(block: str, number: str, queries: str | None, keys: str | None) -> Objective:
    named = {} if queries is None or keys is None else {"queries": queries, "keys": keys}
    return attention(block, int(number), **named)


def _caricature(site: str, image: str, power: str | None) -> Objective:
    named = {} if power is None else {"power": float(power)}
    return caricature(site, _image(image), **named)


_FUNCTIONS = {
    "unit": _Function(
        "unit(ADDRESS[, WHERE])", re.compile(_AT + _WHERE), lambda at, where: unit(at, where=where)
    ),
    "channel": _Function("channel(ADDRESS)", re.compile(_AT), channel),
    "logit": _Function("logit(NUMBER or CLASS)", re.compile(_CLASS), _logit),
    "direction": _Function(
        "direction(SITE, FILE.npy[, WHERE])", re.compile(_AT + _FILE + _WHERE), _direction
    ),
    "head": _Function(
        "head(BLOCK, NUMBER[, WHERE])",
        re.compile(_AT + _COUNT + _WHERE),
        lambda block, number, where: head(block, int(number), where=where),
    ),
    "attention": _Function(
        "attention(BLOCK, NUMBER[, QUERIES -> KEYS])",
        re.compile(_AT + _COUNT + r"(?:,\s*([\w:,]+)\s*->\s*([\w:,]+)\s*)?"),
        _attention,
    ),
    "distance": _Function(
        "distance(SITE, IMAGE[, relative])",
        re.compile(_AT + _FILE + r"(?:,\s*(relative)\s*)?"),
        lambda site, image, relative: distance(site, _image(image), relative=relative is not None),
    ),
    "inversion": _Function(
        "inversion(SITE, IMAGE)", re.compile(_AT + _FILE), lambda site, image: inversion(site, _image(image))
    ),
    "caricature": _Function(
        "caricature(SITE, IMAGE[, power NUMBER])",
        re.compile(_AT + _FILE + rf"(?:,\s*power\s+({_NUMBER})\s*)?"),
        _caricature,
    ),
}
"""The functions of formulas, by name."""
