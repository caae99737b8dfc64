"""Keeps every answer of an endpoint by the hash of what it depends on, so that none is bought twice.

The folder holds segments: files of JSON lines, one answer a line. Each writer has segments of its own, which only grow
(on a disk) or are put once (in an object store), so any number of writers share a folder without a lock. A line that
was cut short is passed over.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

from schemas.errors import SluiceError
from stages.instruct.endpoint.answer import Answer, Usage
from stages.store import is_local, read_range, write_atomically


class AnswerStore:
    """Answers by key, over kills and over runs. Only where an answer stands is held in memory, not the answer.

    Safe to use from several threads.

    Args:
        folder: local, or in an object store.
        run: names the run that buys what is put here, for `spent`.
    """

    def __init__(self, folder: Path, run: str = "") -> None:
        self.folder, self.run = folder, run
        self._lock = threading.Lock()
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._read: dict[str, int] = {}
        self._spent = Usage()
        self._segment: FileIO | None = None
        self._path = folder
        self._copies: TemporaryDirectory[str] | None = None

    @property
    def is_local(self) -> bool:
        """Whether `put_all` takes next to no time."""
        return is_local(self.folder)

    def get(self, key: str) -> Answer | None:
        """The answer of `key`, or None where no segment held it when the folder was last looked at."""
        place = self._places.get(key)
        if place is None:
            return None
        line = json.loads(read_range(*place))
        return Answer(line["text"], line["input_tokens"], line["output_tokens"])

    def put_all(self, answers: Mapping[str, Answer]) -> None:
        """Writes answers. No kill of the process can undo that; on a disk, `sync` makes it safe from a power cut too.

        Raises:
            SluiceError: the folder cannot be written.
        """
        lines = [
            json.dumps({"key": key, "run": self.run, "text": answer.text, "input_tokens": answer.input_tokens,
                        "output_tokens": answer.output_tokens}, ensure_ascii=False)
            for key, answer in answers.items()
        ]  # fmt: skip
        data = "".join(f"{line}\n" for line in lines).encode()
        with self._lock:
            if self.is_local:
                self._append(data)
            else:
                path = self._new_segment()
                write_atomically(path, data)
                self._copy(path.name, data)

    def sync(self) -> None:
        """Has the disk write out what was put."""
        with self._lock:
            if self._segment is not None:
                os.fsync(self._segment.fileno())

    def refresh(self) -> None:
        """Takes in what was written since: by earlier runs, and by others at work now."""
        with self._lock:
            for path in sorted(self.folder.glob("*.jsonl")):
                if not is_local(path):
                    if path.name not in self._read:
                        self._copy(path.name, path.read_bytes())
                elif path.stat().st_size > self._read.get(path.name, 0):
                    self._take_in(path, self._read.get(path.name, 0))

    def spent(self) -> Usage:
        """What the run's answers cost that stood in the folder when it was last looked at."""
        return self._spent

    def _append(self, data: bytes) -> None:
        try:
            if self._segment is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._path = self._new_segment()
                self._segment = open(self._path, "ab", buffering=0)  # noqa: SIM115  (open while this lives)
            if self._segment.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._segment = None  # what was half written must not be gone on with
            raise SluiceError(
                f"cannot write to {self.folder}: {error.strerror}; free some room and start the run again"
            ) from error
        self._take_in(self._path, self._read.get(self._path.name, 0))

    def _new_segment(self) -> Path:
        return self.folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"

    def _copy(self, name: str, data: bytes) -> None:
        """Keeps a segment of an object store as a local file, so that an answer is no round trip."""
        self._copies = self._copies or TemporaryDirectory(prefix="sluice-answers-")
        copy = Path(self._copies.name, "copies")
        begin = copy.stat().st_size if copy.exists() else 0
        with open(copy, "ab") as file:
            file.write(data if data.endswith(b"\n") else data + b"\n")
        self._take_in(copy, begin)
        self._read[name] = len(data)

    def _take_in(self, path: Path, offset: int) -> None:
        """Notes where the whole lines of a local file from `offset` on stand."""
        with open(path, "rb") as lines:
            lines.seek(offset)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._note(path, offset, line)
                offset += len(line)
        self._read[path.name] = offset

    def _note(self, path: Path, offset: int, line: bytes) -> None:
        try:
            said = json.loads(line)
            answer = Answer(said["text"], said["input_tokens"], said["output_tokens"])
            self._places[said["key"]] = (path, offset, len(line))
        except (ValueError, KeyError, TypeError):
            return
        if said.get("run") == self.run:
            self._spent = self._spent.plus(answer)
