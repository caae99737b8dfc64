"""One training step on a run folder, without Ray: what it depends on, where it resumes, and what it leaves behind."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import distributed

from models.clip import ClipSettings, load_clip, save_clip
from models.full import ModelSettings, VisionLanguageModel, build_model, save_weights
from schemas.errors import InputError, SluiceError
from schemas.identity import digest
from schemas.tables import PLAN
from stages.feed.batches import LanguageCollate, PairCollate, Piece, PiecePlan, Pieces
from stages.feed.plan import plan_file
from stages.feed.reader import PackReader
from stages.run_folder import RunFolder, work_key
from stages.store import fetched, read_parquet
from stages.train.checkpoint import CheckpointFolder, learned_weights, put_weights
from stages.train.failures import LossError, explained
from stages.train.features import FeatureStore
from stages.train.logs import StepLog
from stages.train.loop import Progress, make_optimizer, train_step
from stages.train.lora import Adapters
from stages.train.objectives import ContrastiveObjective, LanguageObjective, Objective
from stages.train.settings import TrainStep
from stages.train.sharding import shard
from stages.train.validation import Validation
from stages.train.weights import FINAL, STAGE, final_file, load_trained, trained_digests

log = logging.getLogger("sluice")

VERSION = 1

#: Keys of a step that do not change what it learns.
_OF_NO_EFFECT = {
    "log_every", "checkpoint_every", "keep", "keep_best", "validate_every", "validate_samples", "cache_gb",
}  # fmt: skip
#: Makes a batch of a piece.
_Collate = Callable[[Piece], Any]
#: Writes what a step learned into a folder. Where ranks share the model, its learned weights are given, put together.
_Save = Callable[[Path, dict[str, torch.Tensor] | None], None]


class StepWork:
    """The last of `steps`; the ones before it are done and give it its first weights.

    Leaves RUN/checkpoints/<step>/final.safetensors (language: the parts that learned, adapters merged into them;
    contrastive: the whole OpenCLIP model in fp16, which `pretrained` takes), RUN/checkpoints/<step>/adapter/ where
    adapters learned, RUN/logs/<step>.jsonl and RUN/tensorboard/<step>/.
    """

    def __init__(self, run: RunFolder, model: ModelSettings | None, steps: Sequence[TrainStep], seed: int) -> None:
        self.run, self.model, self.steps, self.seed = run, model, list(steps), seed
        self.step, self.before = self.steps[-1], [step.name for step in self.steps[:-1]]
        self.folder = run.path("checkpoints", self.step.name)
        self.local = run.local_path("checkpoints", self.step.name)

    def arguments(self) -> dict[str, Any]:
        """Plain values that `from_arguments` makes the same work of, in another process."""
        return {
            "run": str(self.run.root),
            "model": None if self.model is None else self.model.model_dump(mode="json"),
            "steps": [step.model_dump(mode="json", exclude_unset=True) for step in self.steps],
            "seed": self.seed,
        }

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> StepWork:
        model = None if values["model"] is None else ModelSettings.model_validate(values["model"])
        steps = [TrainStep.model_validate(step) for step in values["steps"]]
        return cls(RunFolder(values["run"]), model, steps, values["seed"])

    def key(self) -> str:
        """What the step's result depends on."""
        fed = [self.run.output_digest("feed", part) for part in self.run.parts()]
        plan = self.run.output_digest("plan", self.step.name)
        return work_key(STAGE, VERSION, self._how(), [plan, *fed, *trained_digests(self.run, self.before)])

    def _how(self) -> list[Any]:
        """What of the recipe the result depends on."""
        how = self.step.model_dump(mode="json", exclude=_OF_NO_EFFECT)
        if self.step.objective == "language" and self.model is not None:
            model = [self.model.model_dump(mode="json"), *(tower.weights_digest() for tower in self.model.towers)]
        else:
            model = [ClipSettings(model=self.step.model, pretrained=self.step.pretrained).weights_digest()]
        return [how, model, self.seed]

    def done(self) -> bool:
        """Whether the step is committed and still fits its inputs and settings."""
        return self.run.is_done(STAGE, self.step.name, self.key())

    def train(
        self, rank: int = 0, world: int = 1, device: str | torch.device = "cpu", sharded: bool | None = None
    ) -> None:
        """Trains to the end of the step, from its last checkpoint where there is one; rank 0 commits the result.

        Args:
            sharded: whether the ranks share one model, of which each holds a part; where None, several GPUs do.

        Raises:
            SluiceError: the loss is not a number any more, memory or disk is full, or a shard cannot be read.
            InputError: the step does not fit the number of workers or the model.
        """
        device = torch.device(device)
        sharded = world > 1 and (device.type == "cuda" if sharded is None else sharded)
        with self._alone(rank, world), explained(self.step, world, sharded):
            self._train(rank, world, device, sharded)

    @contextmanager
    def _alone(self, rank: int, world: int) -> Iterator[None]:
        """Waits until no other process of this machine trains the step: a killed driver's worker may live on."""
        self.local.mkdir(parents=True, exist_ok=True)
        with open(self.local / ".lock", "w") as lock:
            if rank == 0:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    log.warning("train %s: another process trains this step; waiting for its end", self.step.name)
                    fcntl.flock(lock, fcntl.LOCK_EX)
            if world > 1:
                distributed.barrier()
            yield

    def _train(self, rank: int, world: int, device: torch.device, sharded: bool) -> None:
        step, key = self.step, self.key()
        pieces = self._pieces(rank, world)
        make = self._contrastive if step.objective == "contrastive" else self._language
        objective, collate, held_out, save = make(pieces, device, rank, world, sharded)
        optimizer = make_optimizer(objective, step)
        checkpoints = CheckpointFolder(self.folder / "state", self._state_key(key), step.keep)
        if rank == 0:
            checkpoints.clear_others()
        progress = checkpoints.resume(objective, optimizer)
        validate = self._validate(objective, held_out, rank, world)
        lines = StepLog(self.run, step.name, progress.step) if rank == 0 else None

        def on_log(line: dict[str, Any]) -> None:
            if lines is not None:
                lines.write(line)

        def on_checkpoint(at: Progress) -> None:
            if rank == 0 or sharded:
                checkpoints.save(objective, optimizer, at, write=rank == 0)

        batches, total = pieces.batches(progress.step, collate), pieces.steps
        try:
            with checkpoints:
                train_step(
                    objective, batches, step, total, optimizer, progress, on_log, on_checkpoint, self.seed, validate
                )
        except LossError as error:
            raise error.with_samples(pieces.samples(error.number)) from error
        learned = learned_weights(objective, keep=rank == 0) if sharded else None
        if lines is not None:
            lines.close()
            folder = self.local / ".final.tmp"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            save(folder, learned)
            made = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = {f"checkpoints/{step.name}/{path.relative_to(folder)}": path for path in made}
            counts = {"steps": progress.step, "packs": progress.packs}
            self.run.commit(STAGE, step.name, self._final_key(key), files, counts, version=VERSION)
            shutil.rmtree(folder)

    def _pieces(self, rank: int, world: int) -> Pieces:
        """What this rank passes forward."""
        step = self.step
        return PiecePlan(self._plan(), step.global_packs, step.accumulation, rank, world, step.max_steps)

    def _state_key(self, key: str) -> str:
        """What a state on the way depends on; `key` is the step's when it begins."""
        return key

    def _final_key(self, key: str) -> str:
        """What the result depends on, once it is there; `key` is the step's when it began."""
        return key

    def _validate(
        self, objective: Objective[Any], collate: Callable[[], _Collate], rank: int, world: int
    ) -> Callable[[], dict[str, float] | None]:
        """What measures the loss on held-out conversations."""
        return Validation(self.run, self.step, self._plan(), objective, collate, self.seed, rank, world).losses

    def _plan(self) -> pa.Table:
        path = self.run.path(plan_file(self.step.name))
        try:
            return read_parquet(path).cast(PLAN)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SluiceError(f"{path} cannot be read as a plan; remove it and run the feed stage again") from error

    def _language(
        self, pieces: Pieces, device: torch.device, rank: int, world: int, sharded: bool
    ) -> tuple[Objective[Any], _Collate, Callable[[], _Collate], _Save]:
        step, learn = self.step, self.step.learned()
        model, tokenizer, adapters = self._build()
        (model.vision if sharded else model).to(device)
        reader = PackReader(self.run, ["train"])
        features = None
        shown = pieces.pictures() if step.cache_features and "vision" not in learn else 0
        if shown and shown >= len(reader.pictured) > 0:
            features = self._features(model, reader, rank, world)
        if sharded:
            shard(model, device)
        objective = LanguageObjective(model, learn, step.precision, features, step.z_loss)
        collate = LanguageCollate(reader, tokenizer, model.layout, pixels=features is None)

        def held_out() -> LanguageCollate:
            return LanguageCollate(PackReader(self.run, ["val"]), tokenizer, model.layout)

        def save(folder: Path, learned: dict[str, torch.Tensor] | None) -> None:
            kept, merged = model, adapters
            if learned is not None:
                kept, _, merged = self._build()
                put_weights(kept.parts(), learned)
            if merged is not None:
                merged.save(folder / "adapter")
                merged.merge()
            save_weights(kept, folder / FINAL, list(learn))

        return objective, collate, held_out, save

    def _build(self) -> tuple[VisionLanguageModel, Any, Adapters | None]:
        """The model as the steps before left it, its tokenizer, and the adapters where the step has any."""
        if self.model is None:
            raise InputError("model: a language step needs a model section (vision, connector, language)")
        model, tokenizer = build_model(self.model, self.seed)
        load_trained(model, self.run, self.before)
        adapters = None if self.step.lora is None else Adapters(model.language, self.step.lora, self.seed)
        return model, tokenizer, adapters

    def _features(self, model: VisionLanguageModel, reader: PackReader, rank: int, world: int) -> FeatureStore | None:
        """The store of this tower's features, where it fits the room that the recipe gives."""
        step = self.step
        gigabytes = FeatureStore.gigabytes(model, reader, step.precision)
        if gigabytes > step.cache_gb:
            log.warning(
                "train %s: features need %.1f GB, cache_gb is %.1f: no cache", step.name, gigabytes, step.cache_gb
            )
            return None
        before = [each.name for each in self.steps[:-1] if "vision" in each.learned()]
        fed = [self.run.output_digest("feed", part) for part in self.run.parts()]
        assert self.model is not None
        vision = [self.model.model_dump(mode="json", include={"vision", "tiling"}), self.seed]
        vision += [tower.weights_digest() for tower in self.model.towers]
        key = digest([vision, step.precision, fed, trained_digests(self.run, before)])
        path = self.run.local_path("features", f"{key}.npy")
        if rank == 0:
            FeatureStore.build(path, model, reader, step.precision)
        if world > 1:
            distributed.barrier()
        # A rank on another machine than rank 0 may have a disk of its own.
        return FeatureStore.build(path, model, reader, step.precision)

    def _contrastive(
        self, pieces: Pieces, device: torch.device, rank: int, world: int, sharded: bool
    ) -> tuple[Objective[Any], _Collate, Callable[[], _Collate], _Save]:
        step = self.step
        if world > 1:
            raise InputError(f"train.{step.name}: a contrastive step runs on one worker; set ray.train_workers to 1")
        with ExitStack() as files:
            start = step.pretrained
            if self.before:
                start = str(files.enter_context(fetched(self.run.path(final_file(self.before[-1])))))
            clip = load_clip(step.model, start, device, resize_mode=step.resize_mode, seed=self.seed)
        collate = PairCollate(PackReader(self.run, ["train"]), clip.preprocess, clip.tokenizer, self.seed, step.augment)

        def held_out() -> PairCollate:
            return PairCollate(PackReader(self.run, ["val"]), clip.preprocess, clip.tokenizer, self.seed)

        objective = ContrastiveObjective(clip, step.learned(), step.precision, step.word_loss, self.seed)
        return objective, collate, held_out, lambda folder, _: save_clip(clip, folder / FINAL)
