"""Sizes of the AV1 pictures inside an AVIF file, which its container may lie about and a decoder believes too late.

The container (ISO/IEC 14496-12 and 23008-12) names items and where they lie; an item of type av01 is a string of OBUs,
and its sequence header (AV1 specification, 5.5) has the size of which memory is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MOST_EXTENTS = 10_000
_SEQUENCE_HEADER = 1


def av1_sizes(body: bytes) -> tuple[list[tuple[int, int]], bool]:
    """(width, height) of each AV1 picture among the items, and whether a grid joins some of them.

    Raises:
        ValueError, LookupError, struct.error: the container or a picture's head is broken.
    """
    kinds: dict[int, bytes] = {}
    places: dict[int, list[tuple[int, int, int]]] = {}
    within = 0
    for kind, begin, end in _boxes(body, 0, len(body)):
        if kind == b"meta":
            for inner, first, last in _boxes(body, begin + 4, end):
                if inner == b"iinf":
                    kinds |= _item_kinds(body, first, last)
                elif inner == b"iloc":
                    places |= _item_places(body, first)
                elif inner == b"idat":
                    within = first
    sizes: list[tuple[int, int]] = []
    read = 0
    for item, kind in kinds.items():
        if kind == b"av01":
            parts = [
                body[offset + (within if method == 1 else 0) :][: length or None]
                for method, offset, length in places.get(item, [])
            ]
            obus = b"".join(parts)
            read += len(obus)
            if read > 4 * len(body):
                raise ValueError("items overlap")
            sizes += _sizes_in(obus)
    return sizes, b"grid" in kinds.values()


def _boxes(body: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box."""
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", body, begin)
        head = 8
        if size == 1:
            size, head = struct.unpack_from(">Q", body, begin + 8)[0], 16
        elif size == 0:
            size = end - begin
        if size < head or begin + size > end:
            raise ValueError(f"box {kind!r} has a wrong size")
        yield kind, begin + head, begin + size
        begin += size


def _item_kinds(body: bytes, begin: int, end: int) -> dict[int, bytes]:
    kinds: dict[int, bytes] = {}
    for kind, first, _ in _boxes(body, begin + (8 if body[begin] else 6), end):
        if kind == b"infe" and body[first] >= 2:
            wide = body[first] > 2
            item, _, name = struct.unpack_from(">IH4s" if wide else ">HH4s", body, first + 4)
            kinds[item] = name
    return kinds


def _item_places(body: bytes, begin: int) -> dict[int, list[tuple[int, int, int]]]:
    """(construction method, offset, length) of each item's extents; length 0 means to the end."""
    position = begin + 4

    def number(size: int) -> int:
        nonlocal position
        if position + size > len(body):
            raise ValueError("iloc is cut short")
        position += size
        return int.from_bytes(body[position - size : position], "big")

    version, sizes = body[begin], number(2)
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    places: dict[int, list[tuple[int, int, int]]] = {}
    extents = 0
    for _ in range(number(wide)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        base, count = number(base_size), number(2)
        extents += count
        if extents > _MOST_EXTENTS:
            raise ValueError("too many extents")
        places[item] = []
        for _ in range(count):
            number(index_size if version else 0)
            offset = base + number(offset_size)
            places[item].append((method, offset, number(length_size)))
    return places


def _sizes_in(obus: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) from each sequence header in a string of OBUs."""
    position = 0
    while position < len(obus):
        head = obus[position]
        position += 2 if head & 4 else 1
        size = len(obus) - position
        if head & 2:
            size = shift = 0
            while True:
                byte = obus[position]
                position += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128 or shift == 56:
                    break
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _size(obus[position : position + size])
        position += size


def _size(header: bytes) -> tuple[int, int]:
    """Largest frame (width, height) of a sequence header."""
    header = header[:200]
    left = 8 * len(header)
    value = int.from_bytes(header, "big")

    def bits(count: int) -> int:
        nonlocal left
        left -= count
        if left < 0:
            raise ValueError("the sequence header is cut short")
        return value >> left & (1 << count) - 1

    bits(4)  # profile, still picture
    if bits(1):  # reduced header
        bits(5)
    else:
        delay_bits = 0
        if bits(1):  # timing
            bits(64)
            if bits(1):  # equal intervals: a number in Exp-Golomb code
                zeros = 0
                while not bits(1):
                    zeros += 1
                bits(zeros)
            if bits(1):  # decoder model
                delay_bits = bits(5) + 1
                bits(42)
        display_delay = bits(1)
        for _ in range(bits(5) + 1):  # operating points
            bits(12)
            if bits(5) > 7:
                bits(1)
            if delay_bits and bits(1):
                bits(2 * delay_bits + 1)
            if display_delay and bits(1):
                bits(4)
    width_bits, height_bits = bits(4) + 1, bits(4) + 1
    return bits(width_bits) + 1, bits(height_bits) + 1
