"""What a streaming step's workers are told of the plan, in whatever order Ray delivers it."""

from __future__ import annotations

import asyncio
from itertools import permutations

import pytest

from schemas.errors import SluiceError
from stages.train.stream import _News


@pytest.mark.parametrize("order", permutations(["grow 1", "grow 2", "end 3"]))
def test_the_newest_number_of_parts_counts_in_whatever_order_it_is_told(order: tuple[str, ...]) -> None:
    async def told() -> tuple[int, int]:
        news = _News()
        waiting = asyncio.create_task(news.parts(2, True))
        for call in order:
            name, parts = call.split()
            await getattr(news, name)(int(parts))
        await news.wait_for_end()
        return await waiting, await news.parts(3, True)

    assert asyncio.run(told()) == (3, 3)


def test_who_waits_is_told_that_the_stages_failed() -> None:
    async def told() -> None:
        news = _News()
        waiting = asyncio.create_task(news.parts(0, True))
        await news.fail()
        await news.grow(1)
        await waiting

    with pytest.raises(SluiceError, match="stages before training failed"):
        asyncio.run(told())


def test_who_does_not_wait_is_told_what_is_there() -> None:
    async def told() -> int:
        news = _News()
        await news.grow(2)
        await news.grow(1)
        return await news.parts(2, False)

    assert asyncio.run(told()) == 2
