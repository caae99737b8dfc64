"""Keeps every answer of an endpoint by the hash of what it depends on, so that none is bought twice."""

from __future__ import annotations

import json
from pathlib import Path

from stages.store import write_atomically


class AnswerStore:
    """Answers by the hash of everything they depend on; one small file each, written by a rename or a put."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> str | None:
        try:
            return json.loads(self._path(key).read_text())["answer"]
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def put(self, key: str, answer: str) -> None:
        write_atomically(self._path(key), json.dumps({"answer": answer}, ensure_ascii=False).encode())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
