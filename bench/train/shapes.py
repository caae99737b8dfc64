"""Model FLOP utilization of a training step at a published model's shape, with random weights, on a CUDA device.

Packs of 4,096 tokens of lengths like those of LLaVA-1.5's data (bench/llava_mix.py), bf16, the recipe's second step:
the connector and the language model learn. Then the same samples, padded, by transformers' Trainer. Where there is no
CUDA device nothing is measured. Needs no Ray.
"""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from bench.goals import print_goal
from bench.llava_mix import PICTURE_TOKENS, llava_lengths
from bench.train._padded import samples_of, train_padded
from models.attention import sample_bounds
from models.chat import NO_LOSS
from models.compat import keep_memory, use_cores
from models.connectors import Widths, connector_class
from models.full import ModelSettings, VisionLanguageModel, picture_layout
from models.towers import build_towers
from stages.feed.batches import Batch, PiecePlan
from stages.feed.plan import plan_packs
from stages.train.loop import Progress, make_optimizer, train_step
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep

UTILIZATION, RATIO = 0.5, 1.3
#: Dense bf16 FLOP/s of devices, as their makers have them.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
TOKENS_PER_PACK, PACKS_PER_STEP, SEED = 4096, 8, 7
#: The peer's samples in one forward pass: 8 long ones of the largest shape do not fit beside its optimizer in 139 GiB.
PEER_BATCH = 4

#: Shape -> the tower, and the config of a Llama.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llava-1.5-7b": (
        {"model": "ViT-L-14-336", "pretrained": "none", "layer": -2},
        {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 32, "vocab_size": 32_064, "max_position_embeddings": 4096},
    ),
    "smollm2-135m": (
        {"model": "sluice-filter-64", "pretrained": "none", "layer": -2},
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
         "num_key_value_heads": 3, "vocab_size": 49_153, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    ),
    "tiny": (
        {"model": "sluice-filter-64", "pretrained": "none", "layer": -2},
        {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 500, "max_position_embeddings": 4096},
    ),
}  # fmt: skip


def main(quick: bool) -> None:
    if not torch.cuda.is_available():
        print("shapes: no CUDA device here, so model FLOP utilization is not measured", file=sys.stderr)
        return
    steps, rounds = (4, 1) if quick else (8, 2)
    for shape in ("llava-1.5-7b", "smollm2-135m"):
        measure(shape, steps, rounds)


def measure(shape: str, steps: int, rounds: int) -> None:
    """Prints the shape's goals; `tiny` runs without a CUDA device, too, and has no utilization there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    flops = 0.0
    for _ in range(rounds):
        seconds, flops, supervised = _ours(shape, steps, device)
        rates["ours"].append(supervised / seconds)
        with tempfile.TemporaryDirectory() as folder:
            rates["peer"].append(_peer(shape, steps, device, Path(folder)))
    ours, peer = (statistics.median(rates[who]) for who in ("ours", "peer"))
    spread = {who: [round(rate, 1) for rate in each] for who, each in rates.items()}
    if peak is not None:
        utilization = flops * ours / supervised / peak
        print_goal("train", f"{shape}, packs of {TOKENS_PER_PACK:,}, bf16: model FLOP utilization", utilization,
                   UTILIZATION, device=name, peak_tflops=peak / 1e12,
                   tflop_per_step=round(flops / (steps - 1) / 1e12, 2))  # fmt: skip
    print_goal("train", f"{shape}: supervised tokens per second, ratio to the padded Trainer", ours / peer, RATIO,
               ours=round(ours, 1), peer=round(peer, 1), spread=spread, device=name)  # fmt: skip


def step_flops(model: Any, batch: Batch, layer: int) -> float:
    """The multiplications and additions that one training pass over `batch` needs, two for each product.

    A matrix of n weights takes 2 n a token forward and 4 n backward (its inputs' gradients and its own). In the
    language model that is every matrix at every token that is no padding, but for the head, which is needed where a
    token is supervised alone. Causal attention has half the pairs of each sample's tokens: 2 products x 2 x width x
    pairs forward, twice that backward. The connector learns; the tower is forward only, up to the block of `layer`.
    """
    config, tower = model.language.config, model.vision
    head = model.language.get_output_embeddings().weight
    matrices = sum(
        each.numel() for key, each in model.language.named_parameters() if each.ndim == 2 and "embed" not in key
    )
    if head is not model.language.get_input_embeddings().weight:
        matrices -= head.numel()
    lengths = sample_bounds(batch.position_ids)[0, 0, 0].diff().double()
    pairs = float((lengths * (lengths + 1) / 2).sum())
    width = config.num_attention_heads * (config.hidden_size // config.num_attention_heads)
    language = 6 * matrices * batch.tokens + 6 * head.numel() * int((batch.labels >= 0).sum())
    attention = 3 * 2 * 2 * width * pairs * config.num_hidden_layers
    pictures = 0 if batch.pixel_values is None else len(batch.pixel_values)
    patches = (tower.visual.image_size[0] // tower.visual.patch_size[0]) ** 2
    connector = 6 * sum(each.numel() for each in model.connector.parameters() if each.ndim == 2) * patches
    blocks = len(tower.visual.transformer.resblocks) + 1 + layer
    one = sum(each.numel() for each in tower.visual.transformer.resblocks[0].parameters() if each.ndim == 2)
    places = patches + 1
    seen = 2 * blocks * (one * places + 2 * tower.width * places**2)
    return language + attention + pictures * (connector + seen)


def build(shape: str, device: torch.device) -> VisionLanguageModel:
    """Our model at a shape, with random weights in bf16."""
    vision, language = SHAPES[shape]
    settings = ModelSettings.model_validate(
        {"vision": vision, "language": {"config": {"model_type": "llama"}, "tokenizer": "none"}}
    )
    tower = build_towers(settings.towers, SEED)
    with torch.device(device):
        config = AutoConfig.for_model("llama", **language)
        decoder = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    connector = connector_class(settings.connector)(
        Widths(tower.width, config.hidden_size, tower.layer_width, config.intermediate_size)
    )
    model = VisionLanguageModel(tower, connector, decoder, picture_layout(settings), config.vocab_size - 1)
    return model.to(device, torch.bfloat16)


def _step() -> TrainStep:
    return TrainStep(
        name="instruct", learn={"connector": 2e-5, "language": 2e-5}, packs_per_step=PACKS_PER_STEP,
        accumulation=PACKS_PER_STEP, schedule="constant", warmup_fraction=0, log_every=1, validate_samples=0,
    )  # fmt: skip


def _ours(shape: str, steps: int, device: torch.device) -> tuple[float, float, int]:
    """Seconds, needed FLOP and supervised tokens of our optimizer steps but the first."""
    use_cores()
    keep_memory()
    model, step = build(shape, device), _step()
    batches = list(make_batches(model, steps))
    flops = sum(step_flops(model, batch, SHAPES[shape][0]["layer"]) for batch in batches if batch.step)
    supervised = sum(int((batch.labels >= 0).sum()) for batch in batches if batch.step)
    objective = LanguageObjective(model, step.learned(), "bf16")
    ends = []

    def on_log(_: dict[str, Any]) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(time.monotonic())

    train_step(objective, batches, step, steps, make_optimizer(objective, step), Progress(), on_log, lambda _: None)
    return ends[-1] - ends[0], flops, supervised


def _peer(shape: str, steps: int, device: torch.device, folder: Path) -> float:
    """Supervised tokens per second of the padded Trainer at the same shape, on the same samples."""
    ours = build(shape, torch.device("cpu") if shape == "tiny" else device)
    made: list[list[dict[str, Any]]] = [[] for _ in range(steps)]
    for batch in make_batches(ours, steps):
        made[batch.step] += samples_of(batch, ours.image_token_id)
    visual = ours.vision.visual
    block = visual.transformer.resblocks[0]
    tower = CLIPVisionConfig(
        hidden_size=ours.vision.width, intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks), num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0], patch_size=visual.patch_size[0], projection_dim=visual.output_dim,
    )  # fmt: skip
    text = AutoConfig.for_model("llama", **SHAPES[shape][1])
    config = LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=ours.image_token_id, projector_hidden_act="gelu",
        vision_feature_layer=SHAPES[shape][0]["layer"], image_seq_length=ours.layout.tile_tokens,
        tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip
    del ours, visual, block
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    found = train_padded(model, made, 0, _step(), folder, PEER_BATCH)
    return sum(found["supervised"][1:]) / sum(found["seconds"][1:])


def make_batches(model: VisionLanguageModel, steps: int) -> Iterator[Batch]:
    """Batches of one optimizer step each: packs of a mix like LLaVA-1.5's, words and pictures at random."""
    random = torch.Generator().manual_seed(SEED)
    side, tokens, image = model.layout.format.size, model.layout.tile_tokens, model.image_token_id
    lengths = llava_lengths(SEED, 0.01)
    bare = lengths["text_only"].to_numpy(zero_copy_only=False)
    # A picture of this tower may have fewer tokens than one of LLaVA-1.5's.
    sizes = lengths["length"].to_numpy() - np.where(bare, 0, PICTURE_TOKENS - tokens)
    lengths = lengths.set_column(lengths.schema.get_field_index("length"), "length", pa.array(sizes, pa.int32()))
    text_only = dict(zip(lengths["sample_id"].to_pylist(), bare, strict=True))
    plan = plan_packs(lengths, TOKENS_PER_PACK, SEED)
    for piece in PiecePlan(plan, PACKS_PER_STEP, PACKS_PER_STEP, max_steps=steps).pieces():
        ids = torch.randint(image, (len(piece.packs), TOKENS_PER_PACK), generator=random)
        labels, positions = torch.full_like(ids, NO_LOSS), torch.zeros_like(ids)
        pictures, used = 0, 0
        for row, pack in enumerate(piece.packs):
            begin = 0
            for one in pack:
                end = begin + one["length"]
                said = begin + 1
                if not text_only[one["sample_id"]]:
                    said = begin + tokens
                    ids[row, begin:said] = image
                    pictures += 1
                positions[row, begin:end] = torch.arange(end - begin)
                said = max(said, end - one["supervised"])
                labels[row, said:end] = ids[row, said:end]
                begin = end
            positions[row, begin:] = torch.arange(TOKENS_PER_PACK - begin)
            used += begin
        numbers = [pack[0]["pack"] for pack in piece.packs]
        pixels = torch.randn(pictures, 3, side, side, generator=random) if pictures else None
        place = piece.step, piece.last, piece.divisor, numbers
        yield Batch(*place, ids, labels, positions, [], [1] * pictures, pixels, None, used)
