"""Connectors that pool: what they make of patches, and that no patch is left out."""

import models.compat  # noqa: F401

# isort: split
import pytest
import torch
from torch import nn

from models.connectors import Widths, connector_class, connector_names
from models.connectors.attention_pool import AttentionPool
from models.connectors.mean_pool_mlp import MeanPoolMlp


def test_mean_pool_is_the_mean_of_2_by_2_patches_and_then_the_mlp() -> None:
    connector = MeanPoolMlp(Widths(6, 10))
    features = torch.randn(3, 16, 6)
    square = features.view(3, 4, 4, 6)
    means = torch.stack(
        [square[:, y : y + 2, x : x + 2].mean((1, 2)) for y in (0, 2) for x in (0, 2)], dim=1
    )  # fmt: skip
    expected = connector.linear_2(nn.functional.gelu(connector.linear_1(means)))
    torch.testing.assert_close(connector(features), expected)


def test_attention_pool_is_attention_with_the_mean_as_the_query_and_then_swiglu() -> None:
    torch.manual_seed(0)
    connector = AttentionPool(Widths(vision=256, language=10, tower=128, hidden=20))
    features = torch.randn(2, 16, 256)
    window = features.view(2, 4, 4, 256)[1, 2:, :2].reshape(4, 256)
    stock = nn.MultiheadAttention(128, 2, batch_first=True)
    stock.in_proj_weight.data.copy_(torch.eye(128).repeat(3, 1))
    stock.in_proj_bias.data.zero_()
    stock.out_proj.load_state_dict(connector.out.state_dict())
    query = connector.query(window.mean(0, keepdim=True))
    pooled = stock(query[None], connector.key(window)[None], connector.value(window)[None])[0][0]
    expected = connector.down(nn.functional.silu(connector.gate(pooled)) * connector.up(pooled))[0]
    torch.testing.assert_close(connector(features)[1, 2], expected)


def test_attention_pool_does_not_look_at_what_is_beyond_an_odd_edge() -> None:
    connector = AttentionPool(Widths(64, 8))
    pooled = connector(torch.ones(1, 9, 64))
    assert pooled.shape == (1, 4, 8)
    torch.testing.assert_close(pooled, pooled[:, :1].expand(-1, 4, -1))


@pytest.mark.parametrize("name", connector_names())
@pytest.mark.parametrize("side", [4, 5, 27])
def test_every_patch_is_looked_at(name: str, side: int) -> None:
    torch.manual_seed(0)
    made = connector_class(name)
    connector = made(Widths(64, 8))
    features = torch.randn(2, side * side, 64, requires_grad=True)
    embeddings = connector(features)
    rows, columns = made.grid(side)
    assert embeddings.shape == (2, rows * columns, 8)
    embeddings.square().sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(-1) > 0).all()


def test_odd_sides() -> None:
    assert MeanPoolMlp.grid(27) == (13, 14)
    assert AttentionPool.grid(27) == (14, 14)
    assert MeanPoolMlp.grid(24) == AttentionPool.grid(24) == (12, 12)


def test_learned_embeddings_stand_where_the_order_says() -> None:
    connector = connector_class("linear")(Widths(4, 4))
    connector.specials = nn.Parameter(torch.tensor([[10.0] * 4, [20.0] * 4]))
    features = torch.randn(2, 3, 4)
    found = connector(features, torch.tensor([5, -1, 0, -2, -1]))
    embeddings = connector(features).flatten(0, 1)
    expected = torch.stack(
        [embeddings[5], connector.specials[0], embeddings[0], connector.specials[1], connector.specials[0]]
    )
    assert torch.equal(found, expected)
    found.sum().backward()
    assert connector.specials.grad is not None
    assert connector.specials.grad[:, 0].tolist() == [2, 1]
