"""Attention over packs: samples that share a row never see each other, and what they may not see is never computed.

transformers finds an attention function by its name and hands a mask of four dimensions to it untouched. So what goes
through the model in the mask's place is where samples begin; no mask of T x T is made, here or there.
"""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import dropout as dropped
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sluice_packed"

#: Samples of more tokens are not worth the memory that a matrix of all their pairs takes.
_LONGEST_PRODUCT = 1024


def use_packed_attention(language: Any) -> bool:
    """Lets a language model take `sample_bounds` as its attention mask, where it can; other masks stay as they were.

    It can if its layers leave all masking to one attention function of transformers, and attend in no other way.
    """
    fits = (
        language.config._attn_implementation == "sdpa"
        and language._supports_attention_backend
        and language._supports_flash_attn
        and not language._is_stateful
    )
    if fits:
        language.set_attn_implementation(NAME)
    return fits


def sample_bounds(position_ids: torch.Tensor) -> torch.Tensor:
    """Where samples begin and end in the flattened batch, in the form of a mask.

    Args:
        position_ids: int64 [B, T], ascending by 1 within a sample. A row begins a sample, too. Where they begin again
            at p > 0, a branch begins: what follows sees the sample's first p places and itself, and no other branch.

    Returns:
        int32 [1, 1, L, S + 1]: the S samples' begins in the B * T places, and B * T. It is one row of numbers,
        expanded; L is the length of the longest sample, to be known without asking the device.
        With branches int32 [1, 2, L, S + 1]: branches are counted among samples, and the second row says how many
        places each shares with the sample that it belongs to.
    """
    begins = torch.ones_like(position_ids, dtype=torch.bool)
    begins[:, 1:] = position_ids.diff(dim=1) != 1
    bounds = torch.nonzero(torch.nn.functional.pad(begins.flatten(), (0, 1), value=True)).flatten().to(torch.int32)
    first = position_ids.clone()
    first[:, 0] = 0
    shared = torch.nn.functional.pad(first[begins], (0, 1)).to(torch.int32)
    longest = int(bounds[shared == 0].diff().max())
    rows = torch.stack([bounds, shared]) if shared.any() else bounds[None]
    return rows[None, :, None].expand(-1, -1, longest, -1)


def has_branches(position_ids: torch.Tensor) -> bool:
    """Whether `position_ids` (int64 [B, T]) begin again above 0 anywhere; see `sample_bounds`."""
    return bool(((position_ids.diff(dim=1) != 1) & (position_ids[:, 1:] > 0)).any())


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in each layer: causal attention within each sample of `attention_mask`.

    On CUDA, in half precision, one call of FlashAttention for sequences of different lengths (Dao 2023); elsewhere each
    sample in turn. With another mask than `sample_bounds` makes, transformers' own function.

    Args:
        query, key, value: [B, H, T, D]; key and value may have fewer heads, each for as many of the query's.
        sliding_window: how many places a token sees, itself included; all before it, where None.

    Returns:
        [B, T, H, D], and None for the weights.

    Raises:
        ValueError: the layer asks for something that this function does not do.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    unknown = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if unknown:
        raise ValueError(f"{type(module).__name__} attends with {unknown[0]}, which packed attention does not know")
    batch, _, length, _ = query.shape
    bounds, longest = attention_mask[0, 0, 0], attention_mask.shape[2]
    flat = [each.transpose(1, 2).flatten(0, 1) for each in (query, key, value)]
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    found: Any
    masks: Iterable[torch.Tensor | None]
    if attention_mask.shape[1] == 2:
        trees = _trees(bounds.diff().tolist(), attention_mask[0, 1, 0, :-1].tolist())
        masks = (_tree_mask(*tree, window, query.device) for tree in trees)
        found = _each_sample(flat, [sum(lengths) for lengths, _ in trees], masks, dropout, scaling)
    elif query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout and query.shape[-1] <= 256:
        sides = (-1 if window is None else window - 1, 0)
        one, two, three = flat
        found = varlen_attn(
            one, two, three, bounds, bounds, longest, longest, scale=scaling, window_size=sides, enable_gqa=True
        )
    else:
        lengths = bounds.diff().tolist()
        masks = (_window_mask(n, window, query.device) if window and n > window else None for n in lengths)
        found = _each_sample(flat, lengths, masks, dropout, scaling)
    return found.unflatten(0, (batch, length)), None


def _each_sample(
    flat: list[torch.Tensor],
    lengths: list[int],
    masks: Iterable[torch.Tensor | None],
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Query, key and value [B * T, H, D] -> [B * T, H, D], one sample after the other; causal where a mask is None."""
    small = flat[0].device.type == "cpu" and flat[0].dtype == torch.bfloat16
    found = []
    for query, key, value, mask in zip(*(each.split(lengths) for each in flat), masks, strict=True):
        attend = _products if small and len(query) <= _LONGEST_PRODUCT else _fused
        found.append(attend(query, key, value, mask, dropout, scaling))
    return torch.cat(found)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """[L, H, D], with `mask` bool [L, L], causal where None -> [L, H, D], by torch's fused kernel."""
    query, key, value = (each.transpose(0, 1)[None] for each in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, mask, dropout, mask is None, scale=scaling, enable_gqa=grouped
    )[0].transpose(0, 1)


def _products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """What `_fused` does, by matrix products: on CPUs its backward pass takes a third of the time in bf16."""
    length, heads, width = query.shape
    groups = key.shape[1]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()
    hidden = torch.zeros(length, length, dtype=query.dtype).masked_fill_(~mask, -torch.inf).repeat(heads // groups, 1)
    query = query.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).reshape(groups, -1, width)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(hidden.expand(groups, -1, -1), query, key.permute(1, 2, 0), alpha=scale)
    shares = dropped(scores.softmax(-1, dtype=torch.float32), dropout).to(value.dtype)
    found = torch.bmm(shares, value.transpose(0, 1)).unflatten(1, (-1, length))
    return found.permute(2, 0, 1, 3).reshape(length, heads, value.shape[-1])


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """bool [length, length]: causal, and at most `window` places back, the place itself counted."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def _trees(lengths: list[int], shared: list[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Of each sample the lengths of its branches, and how many places each shares; none where the sample begins."""
    begins = [number for number, places in enumerate(shared) if places == 0]
    spans = [slice(begin, end) for begin, end in zip(begins, [*begins[1:], len(shared)], strict=True)]
    return [(tuple(lengths[span]), tuple(shared[span])) for span in spans]


@lru_cache(32)
def _tree_mask(
    lengths: tuple[int, ...], shared: tuple[int, ...], window: int | None, device: torch.device
) -> torch.Tensor:
    """bool [T, T]: which places (columns) each place of a sample with branches sees. All layers ask for the same."""
    with torch.inference_mode(False):
        branch = torch.repeat_interleave(torch.tensor(lengths))
        position = torch.cat([torch.arange(begin, begin + n) for n, begin in zip(lengths, shared, strict=True)])
        apart = position[:, None] - position
        common = torch.arange(len(branch)) < torch.tensor(shared)[branch][:, None]
        sees = (apart >= 0) & (common | (branch[:, None] == branch))
        return (sees if window is None else sees & (apart < window)).to(device)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
