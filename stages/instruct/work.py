"""The stage's work on one part: kept rows in, conversations out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from schemas.conversation import Conversation, Turn
from schemas.tables import CONVERSATIONS, REJECTED
from schemas.vocabulary import Reason
from stages.graph import PartOutput, PartWork
from stages.instruct.context import Context
from stages.instruct.endpoint import AnswerStore, Endpoint
from stages.instruct.gates import GATES_VERSION
from stages.instruct.judge import Judge
from stages.instruct.kinds import EndpointKind, Rejected, TemplateKind, find_kind
from stages.instruct.kinds.source import Source
from stages.instruct.objects import lexicon
from stages.instruct.orders import find_order
from stages.instruct.settings import InstructSettings
from stages.instruct.writer import Commission, Writer, Written
from stages.run_folder import RunFolder
from stages.select.decisions import read_decisions
from stages.select.masked import read_captions
from stages.store import open_path, read_parquet

#: RUN/unsaid/00000.parquet: one row for every kept row of which there is no conversation.
UNSAID = pa.schema([("sample_id", pa.string()), ("reason", pa.string())])


class InstructWork(PartWork):
    """Makes the conversations of one part: `conversations/00000.parquet`.

    Beside them it commits `rejected/00000.parquet`, what the gates refused, and `unsaid/00000.parquet`, why rows end
    without a conversation.

    Counts: conversations by kind; `rejected_<reason>` for turns and whole answers that were refused for good, and
    `asked_again` for answers that were asked for once more; rows without a conversation by their reason.
    """

    stage = "instruct"
    version = 2
    upstream = ("acquire", "select")

    def __init__(self, run: RunFolder, settings: InstructSettings, seed: int) -> None:
        super().__init__(run)
        self.settings_, self.seed, self.apart = settings, seed, settings.apart
        self.kinds = {name: (find_kind(name)(), share) for name, share in settings.kinds.items() if share > 0}
        for name, most in settings.questions.items():
            kind, _ = self.kinds.get(name, (None, 0.0))
            if isinstance(kind, TemplateKind):
                kind.most = most
        self.endpoint: Endpoint | None = None
        if settings.asks_endpoint() and settings.endpoint is not None:
            folder = open_path(settings.answers) if settings.answers else run.root.parent / "answers"
            self.endpoint = Endpoint(settings.endpoint, AnswerStore(folder, run.root.name))
            self.writer = Writer(self.endpoint, Judge(settings), settings.retry_refused)

    def settings(self) -> Any:
        settings = self.settings_
        asked: dict[str, Any] | None = None
        if self.endpoint is not None:
            endpoint = self.endpoint.settings
            prompts = sorted(kind.version for kind, _ in self.kinds.values() if isinstance(kind, EndpointKind))
            judged = settings.model_dump(include={"gates", "languages", "retry_refused", "instructing_captions"})
            versions = {"prompts": prompts, "objects": lexicon().version, "gates": GATES_VERSION}
            asked = {"model": endpoint.model, **endpoint.sampling(), **judged, **versions}
        asking = settings.model_dump(include={"questions", "apart", "draws"}, exclude_defaults=True)
        return {"kinds": settings.kinds, "endpoint": asked, "seed": self.seed, **asking}

    def compute(self, part: int) -> PartOutput:
        kept = read_decisions(self.run, part, ["sample_id", "split"], kept=True).to_pylist()
        splits = {row["sample_id"]: row["split"] for row in kept}
        contexts = self.contexts(part, splits)
        mute = self.mute(contexts)
        drops = self.settings_.instructing_captions == "drop"
        dropped = {one for one, reason in mute.items() if drops and reason is Reason.CAPTION_INSTRUCTS}
        free = [context for context in contexts if context.sample_id not in dropped]
        taken, broken = self.from_source(free)
        made = [*taken, *self.from_templates(free)]
        learned = [context for context in free if splits[context.sample_id] != "val"]
        for draw in range(2, self.settings_.draws + 1):
            made += self.from_templates(learned, draw)
        written = self.from_endpoint([context for context in contexts if context.sample_id not in mute])
        made += [self.writer.conversation(one) for one in written if one.turns]
        order = {context.sample_id: place for place, context in enumerate(contexts)}
        made.sort(key=lambda conversation: (order[conversation.sample_id], conversation.conversation_id))
        rejected = [*broken, *(row for one in written for row in one.rejected())]
        unsaid = self.unsaid(contexts, made, rejected, mute)
        counts = Counter(conversation.kind for conversation in made)
        counts.update(f"rejected_{row['reason']}" for row in rejected if not row["retried"])
        counts["asked_again"] = sum(bool(one.before) for one in written)
        counts.update(unsaid.values())
        tables = {
            "conversations": pa.Table.from_pylist([conversation.to_row() for conversation in made], CONVERSATIONS),
            "rejected": pa.Table.from_pylist(rejected, REJECTED),
            "unsaid": pa.table([list(unsaid), list(map(str, unsaid.values()))], UNSAID),
        }
        return PartOutput({f"{name}/{part:05d}.parquet": table for name, table in tables.items()}, dict(+counts))

    def mute(self, contexts: list[Context]) -> dict[str, Reason]:
        """The pictures of which the language model is told nothing, and why."""
        found = {}
        for context in contexts:
            if not (context.captions or context.boxes or context.texts):
                found[context.sample_id] = Reason.NO_CONTEXT
            elif self.settings_.asks_endpoint() and find_order(context):
                found[context.sample_id] = Reason.CAPTION_INSTRUCTS
        return found

    def unsaid(
        self, contexts: list[Context], made: list[Conversation], rejected: list[dict[str, Any]], mute: dict[str, Reason]
    ) -> dict[str, Reason]:
        """Why rows end without a conversation: the first gate that refused the last thing said of them, or what
        kept the language model from being asked, or else that no kind fits them."""
        said = {conversation.sample_id for conversation in made}
        refused: dict[str, Reason] = {}
        for row in rejected:
            if not row["retried"]:
                refused.setdefault(row["sample_id"], Reason(row["reason"]))
        ids = [context.sample_id for context in contexts if context.sample_id not in said]
        return {one: refused.get(one) or mute.get(one) or Reason.NO_CONVERSATION for one in ids}

    def contexts(self, part: int, kept: Collection[str]) -> list[Context]:
        """The contexts of the part's rows that are in `kept`, in source order."""
        given = read_parquet(self.run.table_path("source", part), columns=["conversation", "text_only"])
        source = read_captions(self.run, part)
        source = pa.table([*source.columns, *given.columns], [*source.column_names, *given.column_names])
        columns = ["sample_id", "boxes", "original_width", "original_height"]
        samples = read_parquet(self.run.table_path("samples", part), columns=columns)
        seen = {row["sample_id"]: row for row in samples.to_pylist()}
        rows = [row | seen[row["sample_id"]] for row in source.to_pylist() if row["sample_id"] in kept]
        return [Context.from_row(row) for row in rows]

    def from_source(self, contexts: list[Context]) -> tuple[list[Conversation], list[dict[str, Any]]]:
        """The conversations that the source holds, and rows of `schemas.tables.REJECTED` for those that are broken."""
        kind, share = self.kinds.get("source", (None, 0.0))
        taken: list[Conversation] = []
        broken: list[dict[str, Any]] = []
        for context in contexts:
            if not isinstance(kind, Source) or self.chance(context, kind.name).random() >= share:
                continue
            identity = f"{context.sample_id}-{kind.name}"
            try:
                turns = kind.turns(context)
            except Rejected as error:
                broken.append({
                    "conversation_id": identity, "sample_id": context.sample_id, "kind": kind.name,
                    "reason": error.reason.value, "detail": error.detail, "scope": "conversation",
                    "answer": context.conversation, "retried": False,
                })  # fmt: skip
                continue
            if turns:
                kinds = {turn.kind for turn in turns}
                of_all = kinds.pop() if len(kinds) == 1 else kind.name
                made = Conversation(identity, context.sample_id, of_all, "source", turns, text_only=context.text_only)
                taken.append(made)
        return taken, broken

    def from_templates(self, contexts: list[Context], draw: int = 1) -> list[Conversation]:
        """One conversation of all joined kinds, and one for each kind that stands alone, for every picture.

        Args:
            draw: each has chance, and ids, of its own.
        """
        made = []
        again = "" if draw == 1 else f"-{draw}"
        joined: dict[str, list[Turn]] = {context.sample_id: [] for context in contexts}
        for name, (kind, share) in self.kinds.items():
            if not isinstance(kind, TemplateKind):
                continue
            drawn = [(context, self.chance(context, f"{name}{again}")) for context in contexts]
            chosen = [(context, rng) for context, rng in drawn if rng.random() < share]
            said = kind.turns_of([context for context, _ in chosen], [rng for _, rng in chosen])
            for (context, _), turns in zip(chosen, said, strict=True):
                if kind.joined:
                    joined[context.sample_id] += turns
                elif turns:
                    identity = f"{context.sample_id}-{name}{again}"
                    made.append(Conversation(identity, context.sample_id, name, "template", turns, apart=self.apart))
        for context in contexts:
            turns = joined[context.sample_id]
            self.chance(context, f"order{again}").shuffle(turns)
            if turns:
                identity = f"{context.sample_id}-template{again}"
                made.append(Conversation(identity, context.sample_id, "template", "template", turns, apart=self.apart))
        return made

    def from_endpoint(self, contexts: list[Context]) -> list[Written]:
        """What the language model writes, and what the gates refuse of it."""
        if self.endpoint is None:
            return []
        commissions = [
            Commission(context, kind, self.chance_key(context, name))
            for context in contexts
            for name, (kind, share) in self.kinds.items()
            if isinstance(kind, EndpointKind) and self.chance(context, name).random() < share
        ]
        return self.writer.write(commissions)

    def chance(self, context: Context, purpose: str) -> random.Random:
        """Chance that depends on the seed, the sample and the purpose alone, not on the part or its order."""
        return random.Random(self.chance_key(context, purpose))

    def chance_key(self, context: Context, purpose: str) -> str:
        return f"{self.seed}/{context.sample_id}/{purpose}"
