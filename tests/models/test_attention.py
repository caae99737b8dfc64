"""Packed attention: samples have the loss and the gradients that they have alone, and nothing of T x T is made."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from models.attention import NAME, has_branches, packed_attention, sample_bounds, use_packed_attention

#: Three rows; the last sample of the second and third is what padding looks like.
PACKS = [[9, 30, 1, 24], [40, 16, 8], [64]]
CONFIGS = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 1},
    "qwen2 with a window": {"num_key_value_heads": 4, "use_sliding_window": True, "sliding_window": 7,
                            "max_window_layers": 1},
    "gpt_neox": {},
}  # fmt: skip


def language(name: str) -> Any:
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    options = {"num_attention_heads": 4, "initializer_range": 0.3, **CONFIGS[name]}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name.split()[0], **sizes, **options))


def packs() -> tuple[torch.Tensor, torch.Tensor]:
    positions = torch.stack([torch.cat([torch.arange(length) for length in pack]) for pack in PACKS])
    return torch.randint(50, positions.shape, generator=torch.Generator().manual_seed(1)), positions


def learn(model: Any, ids: torch.Tensor, **options: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss at each place (what its logits are, is what counts), and the gradients of their weighted sum."""
    logits = model(input_ids=ids, use_cache=False, **options).logits
    losses = cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
    return losses, list(torch.autograd.grad(losses.square().sum(), list(model.parameters())))


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_loss_and_gradients_are_those_of_samples_alone(name: str) -> None:
    model = language(name)
    ids, positions = packs()
    dense_losses, dense = learn(model, ids, attention_mask=None, position_ids=positions)
    alone_losses, alone = [], [torch.zeros_like(value) for value in model.parameters()]
    for row, pack in zip(ids, PACKS, strict=True):
        for sample in row.split(pack):
            losses, gradients = learn(model, sample[None])
            alone_losses.append(losses)
            alone = [sum_ + one for sum_, one in zip(alone, gradients, strict=True)]
    assert use_packed_attention(model)
    packed_losses, packed = learn(model, ids, attention_mask=sample_bounds(positions), position_ids=positions)
    torch.testing.assert_close(packed_losses, torch.cat(alone_losses), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(packed_losses, dense_losses, atol=1e-5, rtol=1e-5)
    for ours, theirs, one in zip(packed, dense, alone, strict=True):
        torch.testing.assert_close(ours / one.abs().max(), one / one.abs().max(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours / one.abs().max(), theirs / one.abs().max(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("length", [1, 12, 1030])
def test_bf16_is_fp32_but_for_rounding(length: int, window: int | None) -> None:
    random = torch.Generator().manual_seed(3)
    states = [torch.randn(1, heads, length + 3, 8, generator=random) for heads in (4, 2, 2)]
    positions = torch.cat([torch.arange(length), torch.arange(3)])[None]
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        inputs = [each.to(torch.bfloat16).to(kind).requires_grad_() for each in states]
        options = {"scaling": 0.3, "sliding_window": window}
        result, _ = packed_attention(torch.nn.Module(), *inputs, sample_bounds(positions), **options)
        assert result.dtype == kind
        found[kind] = [result, *torch.autograd.grad(result.square().sum(), inputs)]
    for exact, rounded in zip(*found.values(), strict=True):
        torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)


class Largest(TorchDispatchMode):
    """Remembers the most numbers in any tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [each.untyped_storage().nbytes() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.numbers = max([self.numbers, *made])
        return result


def test_nothing_is_made_that_grows_with_the_square_of_the_pack() -> None:
    model = language("llama")
    use_packed_attention(model)
    largest = {}
    for samples in (8, 32):
        positions = torch.arange(16).repeat(samples)[None]
        with Largest() as seen:
            learn(model, positions, attention_mask=sample_bounds(positions), position_ids=positions)
        largest[samples] = seen.numbers
    assert largest[32] <= 4 * largest[8]
    assert largest[32] < 4 * (32 * 16) ** 2


def test_bounds_are_where_positions_begin_anew() -> None:
    bounds = sample_bounds(packs()[1])
    assert bounds[0, 0, 0].tolist() == [0, 9, 39, 40, 64, 104, 120, 128, 192]
    assert bounds.shape == (1, 1, 64, 9)
    # Position ids need not begin at 0, and a row ends a sample even where the next goes on counting.
    assert sample_bounds(torch.tensor([[3, 4, 9], [10, 11, 12]]))[0, 0, 0].tolist() == [0, 2, 3, 6]


def test_dropout_and_gradient_checkpoints_keep_samples_apart() -> None:
    model = language("llama")
    use_packed_attention(model)
    model.train()
    model.gradient_checkpointing_enable()
    ids, positions = packs()
    other = ids.clone()
    other[0, 9:] = 0
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.2
    seen = []
    for tokens in (ids, other):
        torch.manual_seed(0)
        seen.append(learn(model, tokens, attention_mask=sample_bounds(positions), position_ids=positions)[0])
    torch.testing.assert_close(seen[0][:9], seen[1][:9])
    torch.manual_seed(1)
    again = learn(model, ids, attention_mask=sample_bounds(positions), position_ids=positions)[0]
    assert not torch.allclose(seen[0], again)


def test_generation_is_as_without_packed_attention() -> None:
    model = language("llama").eval()
    ids = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(ids, **options)
    assert use_packed_attention(model)
    assert torch.equal(model.generate(ids, **options), before)


def test_models_that_mask_in_their_own_way_are_left_as_they_are() -> None:
    eager = language("llama")
    eager.set_attn_implementation("eager")
    bloom = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", vocab_size=50, hidden_size=32, n_head=4))
    for model in (eager, bloom):
        before = model.config._attn_implementation
        assert not use_packed_attention(model)
        assert model.config._attn_implementation == before != NAME


@pytest.mark.parametrize("name", CONFIGS)
def test_each_branch_sees_what_is_shared_and_itself_alone(name: str) -> None:
    shared, branches, other = 11, [5, 1, 9, 8], 12
    positions = torch.cat([torch.arange(shared), *(torch.arange(shared, shared + n) for n in branches)])
    positions = torch.cat([positions, torch.arange(other)])[None]
    ids = torch.randint(50, positions.shape, generator=torch.Generator().manual_seed(2))
    model = language(name)
    first, *rest = ids[0].split([shared, *branches, other])
    alone = [model(input_ids=torch.cat([first, branch])[None]).logits[0, shared:] for branch in rest[:-1]]
    alone.append(model(input_ids=rest[-1][None]).logits[0])
    assert use_packed_attention(model)
    found = model(input_ids=ids, attention_mask=sample_bounds(positions), position_ids=positions, use_cache=False)
    torch.testing.assert_close(found.logits[0, shared:], torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert has_branches(positions) and not has_branches(packs()[1])
