"""What a run may spend: checked before each request, with those under way counted at their largest."""

from __future__ import annotations

import asyncio

from schemas.errors import SluiceError
from stages.instruct.endpoint.answer import Answer, Messages, Usage, estimate_tokens
from stages.instruct.endpoint.settings import EndpointSettings
from stages.instruct.endpoint.store import AnswerStore


class BudgetSpentError(SluiceError):
    """The run came to its cap and can be started again with a higher one."""


class Purse:
    """A run's budget. What was spent is the sum over the answers that the run has bought and kept, so it holds over
    kills and restarts; with several writers it is behind by what the others have under way.

    Used on one event loop.
    """

    def __init__(self, settings: EndpointSettings, store: AnswerStore) -> None:
        self.settings, self.store = settings, store
        self._held = Usage()
        self._changed = asyncio.Condition()

    async def hold(self, messages: Messages) -> Answer:
        """Sets aside what a request takes at most, as soon as it fits; to be given to `release` once it is stored.

        Raises:
            BudgetSpentError: it does not fit, and nothing is under way that might turn out to be cheaper.
        """
        most = Answer("", estimate_tokens(messages), self.settings.max_tokens)
        async with self._changed:
            while not self._fits(most):
                if self._held.requests == 0:
                    raise BudgetSpentError(self._message(most))
                await self._changed.wait()
            self._held = self._held.plus(most)
        return most

    async def release(self, held: Answer) -> None:
        """Gives back what `hold` set aside."""
        async with self._changed:
            now = self._held
            self._held = Usage(
                now.requests - 1, now.input_tokens - held.input_tokens, now.output_tokens - held.output_tokens
            )
            self._changed.notify_all()

    def _fits(self, most: Answer) -> bool:
        budget, price = self.settings.budget, self.settings.price
        spent, held = self.store.spent(), self._held.plus(most)
        if budget.tokens is not None and spent.tokens + held.tokens > budget.tokens:
            return False
        if budget.money is None or price is None:
            return True
        total = price.of(spent.input_tokens + held.input_tokens, spent.output_tokens + held.output_tokens)
        return total <= budget.money

    def _message(self, most: Answer) -> str:
        budget, price, spent = self.settings.budget, self.settings.price, self.store.spent()
        parts = []
        if budget.tokens is not None:
            parts.append(f"{spent.tokens:,} of {budget.tokens:,} tokens")
        if budget.money is not None and price is not None:
            parts.append(f"{price.of(spent.input_tokens, spent.output_tokens):.4g} of {budget.money:.4g} in money")
        return (
            f"the endpoint's budget is spent: {' and '.join(parts)} for {spent.requests:,} answers, and the next may "
            f"take {most.input_tokens + most.output_tokens:,} tokens; all answers are kept: raise "
            "instruct.endpoint.budget and start the run again"
        )
