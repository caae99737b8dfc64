"""Shards: what training reads. One WebDataset tar for each part and split, an index beside it, and token lengths."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from functools import partial
from typing import Any

import pyarrow as pa

from models.chat import NO_LOSS, encode
from models.full import ModelSettings, picture_layout
from models.language import load_tokenizer
from models.layout import PictureLayout
from schemas.conversation import Conversation
from schemas.tables import LENGTHS, SHARD_INDEX
from schemas.vocabulary import Reason
from stages.feed.settings import FeedSettings
from stages.feed.split import Measured, split_turns
from stages.graph import PartOutput, PartWork
from stages.run_folder import RunFolder
from stages.select.decisions import read_decisions
from stages.select.masked import read_captions
from stages.store import read_parquet
from stages.tar import read_members, tar_bytes

SPLITS = ("train", "val")
#: The kind that stands in LENGTHS where samples are fed without conversations, for contrastive training.
PAIR = "pair"
#: RUN/feed/00000.parquet: samples that this stage dropped.
DROPPED = pa.schema([("sample_id", pa.string()), ("reason", pa.string())])

_TAR_HEADER = 512
#: What of the language model's settings lengths depend on.
_TOKENIZER_KEYS = {"name", "gguf_file", "tokenizer", "tokenizer_gguf_file", "chat_template"}


class ShardWork(PartWork):
    """Writes one part's shards, their indexes, the lengths of its conversations, and what was dropped for length.

    Without a model the samples are fed as they are, each of length 1: what contrastive training reads. Samples without
    a picture lie in the shards then, too, but are in no batch. Without `feed.shards` only held-out samples lie in any.
    """

    stage = "feed"
    version = 3
    upstream = ("acquire", "select", "instruct")

    def __init__(self, run: RunFolder, settings: FeedSettings, model: ModelSettings | None) -> None:
        super().__init__(run)
        self.feed, self.model = settings, model
        self._tokenizer: Any = None

    def settings(self) -> Any:
        return self._lengths_from() | ({} if self.feed.shards else {"shards": False})

    def _lengths_from(self) -> dict[str, Any]:
        if self.model is None:
            return {"conversations": False}
        language = self.model.language.model_dump(mode="json", include=_TOKENIZER_KEYS)
        return {
            "tokens_per_pack": self.feed.tokens_per_pack,
            "picture": _said(picture_layout(self.model)),
            "tokenizer": language,
            **({"too_long": "split"} if self.feed.too_long == "split" else {}),
        }

    def records(self, part: int, split: str) -> dict[str, dict[str, Any]]:
        """Key -> what the part's shard of this split holds as JSON, made anew from what the shard is made from."""
        splits = self._splits(part)
        return {
            key: record
            for key, record in self._records(part, splits)[0].items()
            if splits[record["sample_id"]] == split
        }

    def compute(self, part: int) -> PartOutput:
        splits = self._splits(part)
        records, lengths, dropped = self._records(part, splits)
        files: dict[str, Any] = {
            f"lengths/{part:05d}.parquet": pa.Table.from_pylist(lengths, LENGTHS),
            f"feed/{part:05d}.parquet": pa.Table.from_pylist(dropped, DROPPED),
        }
        counts: Counter[str] = Counter(row["reason"] for row in dropped)
        if lost := self._lost_turns(part, records):
            counts["too_long_turns"] = lost
        pictures = dict(read_members(self.run.path("samples", f"{part:05d}.tar"), "jpg"))
        for split in SPLITS:
            chosen = {key: record for key, record in records.items() if splits[record["sample_id"]] == split}
            name = f"{split}-{part:06d}"
            counts[split] = len(chosen)
            if split == "train" and not self.feed.shards:
                continue
            shard, index = shard_bytes(f"{name}.tar", chosen, pictures)
            files[f"shards/{name}.tar"] = shard
            files[f"shards/{name}.index.parquet"] = index
        return PartOutput(files, dict(counts))

    def _splits(self, part: int) -> dict[str, str]:
        """sample_id -> split, of the rows that select kept."""
        kept = read_decisions(self.run, part, ["sample_id", "split"], kept=True)
        return dict(zip(kept["sample_id"].to_pylist(), kept["split"].to_pylist(), strict=True))

    def _records(
        self, part: int, splits: dict[str, str]
    ) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Key -> what goes into the shard's JSON; rows of LENGTHS; rows of DROPPED."""
        source = {row["sample_id"]: row for row in read_parquet(self.run.table_path("source", part)).to_pylist()}
        for row in read_captions(self.run, part).to_pylist():
            source[row["sample_id"]].update(row)
        said = self._conversations(part)
        records, lengths, dropped = {}, [], []
        for sample in read_parquet(self.run.table_path("samples", part)).to_pylist():
            identity = sample["sample_id"]
            if identity not in splits or (self.model is not None and identity not in said):
                continue
            size = None if sample["text_only"] else (sample["width"], sample["height"])
            fitting = self._fitting(said.get(identity, []), size)
            if identity in said and not fitting:
                dropped.append({"sample_id": identity, "reason": Reason.TOO_LONG.value})
                continue
            given = source[identity]
            records[sample["key"]] = {
                **{name: sample[name] for name in ("sample_id", "url", "width", "height")},
                **{name: sample[name] for name in ("original_width", "original_height")},
                "caption": given["caption"],
                "captions": given["captions"],
                "boxes": sample["boxes"],
                "licence": given["licence"],
                "conversations": [one.to_row() for one, _, _ in fitting],
            }
            common = {"sample_id": identity, "split": splits[identity], "part": part}
            lengths += [
                {
                    "conversation_id": one.conversation_id,
                    "kind": one.kind,
                    "length": tokens,
                    "supervised": learned,
                    "text_only": one.text_only,
                    "tiles": 0 if size is None or one.text_only else self._layout.tiles(*size),
                }
                | common
                for one, tokens, learned in fitting
            ]
            if self.model is None and not sample["text_only"]:
                lengths.append(
                    {"conversation_id": identity, "kind": PAIR, "length": 1, "supervised": 1, "tiles": 1} | common
                )
        return records, lengths, dropped

    def _conversations(self, part: int) -> dict[str, list[Conversation]]:
        said: dict[str, list[Conversation]] = {}
        if self.model is not None:
            for row in read_parquet(self.run.table_path("conversations", part)).to_pylist():
                said.setdefault(row["sample_id"], []).append(Conversation.from_row(row))
        return said

    def _lost_turns(self, part: int, records: dict[str, dict[str, Any]]) -> int:
        """Turns that are too long for a pack, of samples that are kept for others."""
        said = self._conversations(part)
        had = sum(len(one.turns) for record in records.values() for one in said.get(record["sample_id"], []))
        return had - sum(len(one["turns"]) for record in records.values() for one in record["conversations"])

    def _fitting(self, said: list[Conversation], size: tuple[int, int] | None) -> list[Measured]:
        """The conversations that fit into a pack; of those that do not, the pieces, where the recipe cuts them.

        Args:
            size: width and height of the sample's picture, where it has one.
        """
        measure = partial(self._measure, size=size)
        fitting: list[Measured] = []
        for one in said:
            tokens, learned = measure(one)
            if tokens <= self.feed.tokens_per_pack:
                fitting.append((one, tokens, learned))
            elif self.feed.too_long == "split":
                fitting += split_turns(one, self.feed.tokens_per_pack, measure)
        return fitting

    def _measure(self, conversation: Conversation, size: tuple[int, int] | None) -> tuple[int, int]:
        """Tokens of the conversation with its picture, and how many of them carry loss."""
        assert self.model is not None
        if self._tokenizer is None:
            self._tokenizer, self._layout = load_tokenizer(self.model.language), picture_layout(self.model)
        places = 0 if size is None or conversation.text_only else self._layout.tokens(*size)
        encoded = encode(conversation, self._tokenizer, places)
        return len(encoded.input_ids), sum(label != NO_LOSS for label in encoded.labels)


def _said(layout: PictureLayout) -> dict[str, Any]:
    """What the lengths depend on of a layout."""
    tiling = {"name": layout.tiling.name(), **layout.tiling.model_dump(mode="json")}
    return {"tiling": tiling, "size": layout.format.size, "patch": layout.format.patch, "grid": layout.grid}


def shard_bytes(name: str, records: dict[str, dict[str, Any]], pictures: dict[str, bytes]) -> tuple[bytes, pa.Table]:
    """One shard and its index (`schemas.tables.SHARD_INDEX`), both functions of their arguments alone.

    Args:
        name: the shard's file name.
        records: key -> what goes into `key.json`; must hold `sample_id`, and of a picture `width` and `height`.
        pictures: key -> the JPEG's bytes; records without one are about no picture.
    """
    members = []
    for key, record in sorted(records.items()):
        line = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        if key in pictures:
            members.append((f"{key}.jpg", pictures[key]))
        members.append((f"{key}.json", line.encode("utf-8", "surrogatepass")))
    data, places = tar_bytes(members)
    crc = {name: zlib.crc32(content) for name, content in members}
    rows = []
    for key, record in sorted(records.items()):
        text = places[f"{key}.json"]
        picture = places.get(f"{key}.jpg", (None, None))
        begin = (text[0] if picture[0] is None else picture[0]) - _TAR_HEADER
        rows.append(
            {
                "sample_id": record["sample_id"],
                "shard": name,
                "key": key,
                "offset": begin,
                "size": text[0] + text[1] - begin,
                "picture_offset": picture[0],
                "picture_size": picture[1],
                "picture_crc": crc.get(f"{key}.jpg"),
                "json_offset": text[0],
                "json_size": text[1],
                "json_crc": crc[f"{key}.json"],
                "width": record["width"] if key in pictures else None,
                "height": record["height"] if key in pictures else None,
            }
        )
    return data, pa.Table.from_pylist(rows, SHARD_INDEX)
