"""Ways in which a slide's file may be damaged, each a function of its bytes and of chance."""

import random
from collections.abc import Callable, Mapping

Mutation = Callable[[bytes, random.Random], bytes]

PAGE = 4096
HEADER = 2048
"""Most of what a header says lies in so many bytes at one end of a file or the other."""

TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, 2**64 - 1)
"""Numbers at which sizes and offsets go wrong."""


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Up to four bits of a header are others."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        spoilt[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def flipped_anywhere(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """Up to eight bytes of a header are anything."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        spoilt[_place(data, rng)] = rng.randrange(256)
    return bytes(spoilt)


def lost_page(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data)) // PAGE * PAGE
    size = len(data[start : start + PAGE])
    return data[:start] + bytes(size) + data[start + size :]


def lying(data: bytes, rng: random.Random) -> bytes:
    """A number of a header is one at which sizes go wrong."""
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice(TELLING) % (1 << 8 * width)
    place = min(_place(data, rng), len(data) - width)
    return data[:place] + number.to_bytes(width, "little") + data[place + width :]


def spliced(data: bytes, rng: random.Random) -> bytes:
    """An entry of a directory lies where another should."""
    one, other = (min(_place(data, rng), len(data) - 20) for _ in range(2))
    return data[:other] + data[one : one + 20] + data[other + 20 :]


def exchanged(data: bytes, rng: random.Random) -> bytes:
    """Two parts of the file have changed places."""
    size = rng.randint(1, max(1, min(PAGE, len(data) // 4)))
    one, other = sorted(rng.sample(range(len(data) - size), 2))
    other = max(other, one + size)
    return (
        data[:one]
        + data[other : other + size]
        + data[one + size : other]
        + data[one : one + size]
        + data[other + size :]
    )


def grown(data: bytes, rng: random.Random) -> bytes:
    """Bytes too many, so that all that follows is elsewhere."""
    place = _place(data, rng)
    return data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:]


MUTATIONS: Mapping[str, Mutation] = {
    "truncated": truncated,
    "flipped": flipped,
    "flipped-anywhere": flipped_anywhere,
    "overwritten": overwritten,
    "lost-page": lost_page,
    "lying": lying,
    "spliced": spliced,
    "exchanged": exchanged,
    "grown": grown,
}


def _place(data: bytes, rng: random.Random) -> int:
    """A place in a header: at the beginning or the end of the file."""
    place = rng.randrange(min(HEADER, len(data)))
    return place if rng.random() < 0.5 else len(data) - 1 - place
