"""Conversations as the model gets them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow.compute as pc

from pipelines.report.material import Material
from pipelines.report.model_view import ModelView
from pipelines.report.rows import data_url, open_rgb, thumbnail
from schemas.conversation import Conversation
from stages.graph import count_over_parts
from stages.store import read_parquet

_CONVERSATIONS = 6


def conversations(material: Material) -> dict[str, Any] | None:
    """Some conversations as the model gets them."""
    if material.said is None or material.recipe.model is None:
        return None
    model = ModelView(material.recipe.model)
    chosen = [Conversation.from_row(row) for row in _telling_conversations(material)]
    shown = material.rows.show(conversation.sample_id for conversation in chosen)
    cards = []
    for conversation in chosen:
        row = shown[conversation.sample_id]
        picture = None if row.jpeg is None else open_rgb(row.jpeg)
        seen = picture and model.picture(picture)
        cards.append({
            "said": conversation,
            "row": row,
            "original": picture and thumbnail(picture),
            "size": picture.size if picture else None,
            "seen": seen and data_url(seen, "PNG", optimize=True),
            "tiles": seen.width // model.side if seen else 0,
            "view": model.view(conversation, None if conversation.text_only or not picture else picture.size),
        })  # fmt: skip
    rejected = {
        name.removeprefix("rejected_"): number
        for name, number in count_over_parts(material.run, "instruct", material.run.parts()).items()
        if name.startswith("rejected_")
    }
    return {"cards": cards, "side": model.side, "exact": model.exact,
            "rejected": rejected}  # fmt: skip


def _telling_conversations(material: Material) -> list[dict[str, Any]]:
    """Conversations of every origin and kind in turn, a language model's first, each about another picture."""
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for part in material.run.parts():
        path = material.run.table_path("conversations", part)
        if not path.exists():
            continue
        table = read_parquet(path).sort_by("conversation_id")
        for kind, origin, *_ in {key for key, _ in (material.said or {"origins": []})["origins"]}:
            of_kind = table.filter(pc.and_(pc.equal(table["kind"], kind), pc.equal(table["origin"], origin)))
            by_kind[origin, kind] += of_kind.slice(0, _CONVERSATIONS).to_pylist()
    chosen: list[dict[str, Any]] = []
    pictures: set[str] = set()
    for place in range(_CONVERSATIONS):
        for key in sorted(by_kind):
            found = [row for row in by_kind[key] if row["sample_id"] not in pictures]
            if place < len(by_kind[key]) and found and len(chosen) < _CONVERSATIONS:
                chosen.append(found[0])
                pictures.add(found[0]["sample_id"])
    return chosen
