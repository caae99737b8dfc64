"""The stage's work on one part: kept rows in, conversations out."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pyarrow as pa

from schemas.conversation import Conversation, Turn
from schemas.tables import CONVERSATIONS
from schemas.vocabulary import Reason, State
from stages.graph import PartOutput, PartWork
from stages.instruct.context import Context
from stages.instruct.endpoint import AnswerStore, Endpoint
from stages.instruct.kinds import EndpointKind, Rejected, TemplateKind, find_kind
from stages.instruct.settings import InstructSettings
from stages.run_folder import RunFolder
from stages.store import open_path, read_parquet


class InstructWork(PartWork):
    """Makes the conversations of one part: `conversations/00000.parquet`.

    Counts: conversations by kind, `rejected_<reason>` for answers of the endpoint that could not be used, and
    `no_conversation` for pictures of which nothing could be made.
    """

    stage = "instruct"
    version = 2
    upstream = ("acquire", "select")

    def __init__(self, run: RunFolder, settings: InstructSettings, seed: int) -> None:
        super().__init__(run)
        self.settings_, self.seed = settings, seed
        self.kinds = {name: (find_kind(name)(), share) for name, share in settings.kinds.items() if share > 0}
        self.endpoint: Endpoint | None = None
        if settings.asks_endpoint() and settings.endpoint is not None:
            folder = open_path(settings.answers) if settings.answers else run.root.parent / "answers"
            self.endpoint = Endpoint(settings.endpoint, AnswerStore(folder, run.root.name))

    def settings(self) -> Any:
        endpoint = self.settings_.endpoint
        prompts = sorted(kind.version for kind, _ in self.kinds.values() if isinstance(kind, EndpointKind))
        asked = {"model": endpoint.model, **endpoint.sampling()} if endpoint and self.endpoint else None
        return {"kinds": self.settings_.kinds, "prompts": prompts, "endpoint": asked, "seed": self.seed}

    def compute(self, part: int) -> PartOutput:
        contexts = self.contexts(part)
        counts: Counter[str] = Counter()
        made = self.from_templates(contexts)
        made += self.from_endpoint(contexts, counts)
        order = {context.sample_id: place for place, context in enumerate(contexts)}
        made.sort(key=lambda conversation: (order[conversation.sample_id], conversation.conversation_id))
        counts.update(conversation.kind for conversation in made)
        counts[Reason.NO_CONVERSATION] = len(order) - len({conversation.sample_id for conversation in made})
        table = pa.Table.from_pylist([conversation.to_row() for conversation in made], CONVERSATIONS)
        return PartOutput({f"conversations/{part:05d}.parquet": table}, dict(counts))

    def contexts(self, part: int) -> list[Context]:
        """The contexts of the part's kept rows, in source order."""
        here = [("part", "=", part), ("state", "=", State.KEPT.value)]
        kept = set(read_parquet(self.run.path("decisions.parquet"), filters=here)["sample_id"].to_pylist())
        source = read_parquet(self.run.table_path("source", part), columns=["sample_id", "captions"])
        columns = ["sample_id", "boxes", "original_width", "original_height"]
        samples = read_parquet(self.run.table_path("samples", part), columns=columns)
        seen = {row["sample_id"]: row for row in samples.to_pylist()}
        rows = [row | seen[row["sample_id"]] for row in source.to_pylist() if row["sample_id"] in kept]
        return [Context.from_row(row) for row in rows]

    def from_templates(self, contexts: list[Context]) -> list[Conversation]:
        """One conversation of all joined kinds, and one for each kind that stands alone, for every picture."""
        made = []
        joined: dict[str, list[Turn]] = {context.sample_id: [] for context in contexts}
        for name, (kind, share) in self.kinds.items():
            if not isinstance(kind, TemplateKind):
                continue
            drawn = [(context, self.chance(context, name)) for context in contexts]
            chosen = [(context, rng) for context, rng in drawn if rng.random() < share]
            said = kind.turns_of([context for context, _ in chosen], [rng for _, rng in chosen])
            for (context, _), turns in zip(chosen, said, strict=True):
                if kind.joined:
                    joined[context.sample_id] += turns
                elif turns:
                    made.append(Conversation(f"{context.sample_id}-{name}", context.sample_id, name, "template", turns))
        for context in contexts:
            turns = joined[context.sample_id]
            self.chance(context, "order").shuffle(turns)
            if turns:
                identity = f"{context.sample_id}-template"
                made.append(Conversation(identity, context.sample_id, "template", "template", turns))
        return made

    def from_endpoint(self, contexts: list[Context], counts: Counter[str]) -> list[Conversation]:
        """What the language model writes; answers that cannot be used are counted and left out."""
        if self.endpoint is None:
            return []
        chosen = [
            (context, name, kind)
            for context in contexts
            for name, (kind, share) in self.kinds.items()
            if isinstance(kind, EndpointKind) and self.chance(context, name).random() < share
        ]
        answers = self.endpoint.answer_all([(kind.version, kind.messages(context)) for context, _, kind in chosen])
        made = []
        for (context, name, kind), answer in zip(chosen, answers, strict=True):
            try:
                turns = kind.read(answer.text, context, self.chance(context, name))
            except Rejected as reason:
                counts[f"rejected_{reason}"] += 1
                continue
            identity = f"{context.sample_id}-{name}"
            model = self.endpoint.settings.model
            made.append(Conversation(identity, context.sample_id, name, "endpoint", turns, model, kind.version))
        return made

    def chance(self, context: Context, purpose: str) -> random.Random:
        """Chance that depends on the seed, the sample and the purpose alone, not on the part or its order."""
        return random.Random(f"{self.seed}/{context.sample_id}/{purpose}")
