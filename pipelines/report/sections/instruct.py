"""What is said of the pictures: kinds, pictures with what is said drawn on them, what gates refused, and the cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.marks import marks_in
from pipelines.report.material import Material
from pipelines.report.rows import Shown, open_rgb, thumbnail
from schemas.conversation import Conversation
from schemas.vocabulary import Reason
from stages.instruct.endpoint import AnswerStore
from stages.store import open_path, read_parquet

_CARDS = 8
_TURNS = 10
_SIDE_PX = 280
#: Conversations among which those that are shown are looked for.
_LOOKED_AT = 400
_EXAMPLES = 2


def instruct(material: Material) -> dict[str, Any] | None:
    """Conversations beside their pictures, the share of each kind, what gates refused, tokens and cost."""
    if material.said is None or material.recipe.model is None:
        return None
    chosen = _telling(material)
    shown = material.rows.show(one.sample_id for one in chosen) if material.has_ledger else {}
    cards = [_card(one, row) for one in chosen if (row := shown.get(one.sample_id)) is not None]
    turns = Counter(dict(material.said["kinds"]))
    return {
        "cards": cards,
        "kinds": turns.most_common(),
        "turns": turns.total(),
        "origins": material.said["origins"],
        "number": material.said["number"],
        "gates": _gates(material),
        "usage": _usage(material),
    }


def _card(said: Conversation, row: Shown) -> dict[str, Any]:
    picture = None if row.jpeg is None else open_rgb(row.jpeg)
    turns = said.turns[:_TURNS]
    return {
        "said": said,
        "turns": turns,
        "more": len(said.turns) - len(turns),
        "row": row,
        "picture": picture and thumbnail(picture, _SIDE_PX),
        "size": picture.size if picture else None,
        "asking": [mark for turn in turns for mark in marks_in(turn.question)],
        "answering": [mark for turn in turns for mark in marks_in(turn.answer)],
    }


def _telling(material: Material) -> list[Conversation]:
    """Conversations that between them show every kind, each about another picture where there are enough."""
    left: list[Conversation] = []
    for part in material.run.parts():
        path = material.run.table_path("conversations", part)
        if path.exists() and len(left) < _LOOKED_AT:
            table = read_parquet(path).sort_by("conversation_id")
            kinds = table["kind"].unique().to_pylist()
            few = max(1, _LOOKED_AT // max(1, len(kinds)) // 4)
            some = pa.concat_tables(table.filter(pc.equal(table["kind"], kind)).slice(0, few) for kind in sorted(kinds))
            left += [Conversation.from_row(row) for row in some.to_pylist()]
    chosen: list[Conversation] = []
    seen: set[tuple[str, str]] = set()
    pictures: set[str] = set()
    while left and len(chosen) < _CARDS:
        best = max(left, key=lambda one: (len(_sorts(one) - seen), bool(_sorts(one) - {("template", "caption")})))
        chosen.append(best)
        seen |= _sorts(best)
        pictures.add(best.sample_id)
        left = [one for one in left if one.sample_id not in pictures]
    return chosen


def _sorts(one: Conversation) -> set[tuple[str, str]]:
    return {(one.origin, turn.kind) for turn in one.turns}


def _gates(material: Material) -> dict[str, Any] | None:
    """What the gates refused, by reason, with some of it; None where there are no tables of it."""
    short = ["reason", "kind", "scope", "retried"]
    tables = []
    examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for part in material.run.parts():
        path = material.run.table_path("rejected", part)
        if not path.exists():
            continue
        table = read_parquet(path)
        tables.append(table.select(short))
        for reason in table["reason"].unique().to_pylist():
            lacking = _EXAMPLES - len(examples[reason])
            if lacking > 0:
                of_reason = table.filter(pc.equal(table["reason"], reason)).sort_by("conversation_id")
                examples[reason] += of_reason.slice(0, lacking).to_pylist()
    if not tables:
        return None
    counted = pa.concat_tables(tables).group_by(short).aggregate([([], "count_all")]).to_pylist()
    lines: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for row in counted:
        number = row["count_all"]
        lines[row["reason"]].update({"all": number, row["scope"]: number, "retried": number if row["retried"] else 0})
        kinds[row["reason"]][row["kind"]] += number
    return {
        "refused": sum(line["all"] for line in lines.values()),
        "retried": sum(line["retried"] for line in lines.values()),
        "lines": [
            {"reason": name, "text": Reason(name).info.text, **{key: line[key] for key in ("turn", "conversation")},
             "retried": line["retried"], "kinds": kinds[name].most_common(), "examples": examples[name]}
            for name, line in sorted(lines.items(), key=lambda item: (-item[1]["all"], item[0]))
        ],
    }  # fmt: skip


def _usage(material: Material) -> dict[str, Any] | None:
    """What the run's answers took; None where it bought none."""
    settings = material.recipe.instruct
    if settings.endpoint is None or not settings.asks_endpoint():
        return None
    folder = open_path(settings.answers) if settings.answers else material.run.root.parent / "answers"
    store = AnswerStore(folder, material.run.root.name)
    store.refresh()
    spent, price = store.spent(), settings.endpoint.price
    if not spent.requests:
        return None
    money = None if price is None else price.of(spent.input_tokens, spent.output_tokens)
    return {"spent": spent, "money": money, "model": settings.endpoint.model}
