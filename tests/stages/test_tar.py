"""Tars are reproducible, and members are found again by offset and by suffix."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import SluiceError
from stages.tar import read_members, tar_bytes

MEMBERS = [("000000001.jpg", b"x" * 700), ("000000001.txt", b""), ("000000002.jpg", b"y" * 512)]


def test_offsets_and_members(tmp_path: Path) -> None:
    data, places = tar_bytes(MEMBERS)
    assert data == tar_bytes(iter(MEMBERS))[0]
    for name, content in MEMBERS:
        offset, size = places[name]
        assert data[offset : offset + size] == content
        assert data[offset - 512 : offset].startswith(name.encode())
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    assert list(read_members(path, "jpg")) == [("000000001", b"x" * 700), ("000000002", b"y" * 512)]
    assert list(read_members(path, ".txt")) == [("000000001", b"")]


def test_what_cannot_be_a_tar(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two members"):
        tar_bytes([MEMBERS[0], MEMBERS[0]])
    with pytest.raises(ValueError, match="too long"):
        tar_bytes([("k" * 200 + ".jpg", b"")])
    (tmp_path / "b.tar").write_bytes(b"not a tar" * 100)
    for name in ("a.tar", "b.tar"):
        with pytest.raises(SluiceError, match=name):
            list(read_members(tmp_path / name, "jpg"))
