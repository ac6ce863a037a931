"""Mutations of bytes, without regard to what they mean."""

from __future__ import annotations

import random

PIECES = [b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b"\t", b'"', b"'", b"\\", b",", b";"]
PIECES += [
    b"{",
    b"[",
    b"]",
    b"}",
    b":",
    b"- ",
    b"&a ",
    b"*a",
    b"#",
    b"!!",
    b"\x1b[31m",
    b"\xed\xa0\x80",
    b"\xc3",
    b"9" * 30,
]
PIECES += [b"\x80", b"\x85", b"\xe2\x80\xa8", b"NaN", b"null", b"[" * 2000, b'{"a":' * 2000, b"\0" * 4096]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes, damaged in one place or in a few."""
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        data = _edited(data, rng)
    return data


def _edited(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice([1, 1, 2, 8, 64, 1000]))
    match rng.randrange(8):
        case 0 | 1:
            flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[start : start + 1])
            return data[:start] + flipped + data[start + 1 :]
        case 2:
            return data[:start] if rng.random() < 0.5 else data[start:]
        case 3:
            return data[:start] + rng.choice(PIECES) + data[start:]
        case 4:
            return data[:start] + data[end:]
        case 5:  # a slice is copied to another place
            place = rng.randrange(len(data) + 1)
            return data[:place] + data[start:end] + data[place:]
        case 6:
            return data[:start] + data[start:end] * rng.choice([2, 3, 50]) + data[end:]
        case _:
            return data[:start] + rng.randbytes(end - start) + data[end:]


def encoded(text: str, rng: random.Random) -> bytes:
    """Text in one of the encodings that common programs write."""
    encoding = rng.choice(["utf-8"] * 30 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
    newline = rng.choice(["\n"] * 4 + ["\r\n", "\r"])
    return text.replace("\n", newline).encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
