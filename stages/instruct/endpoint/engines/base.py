"""What an engine is: something that answers one chat, many of them at the same time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from stages.instruct.endpoint.answer import Answer, Messages

if TYPE_CHECKING:
    from stages.instruct.endpoint.settings import EndpointSettings


class NotStructuredError(Exception):
    """The server takes no schema; the request is to be asked without one."""


class Engine(ABC):
    """Answers chats. Made wherever the stage's work is made, so that it loads nothing before it is asked.

    Attributes:
        structured: whether `ask` may be given a schema. An engine sets it to False when its server turns out to
            take none.
    """

    structured = False

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings

    @classmethod
    def gpus(cls, settings: EndpointSettings) -> float:
        """GPUs that the process needs in which the engine runs."""
        return 0.0

    @abstractmethod
    async def ask(self, messages: Messages, schema: dict[str, Any] | None = None) -> Answer | None:
        """Answers one chat; up to `settings.concurrency` of these run at the same time on one event loop.

        None means that this chat cannot be answered, for example because it is too long for the model.

        Args:
            schema: a JSON schema that the answer's text must keep to.

        Raises:
            InputError: the recipe or the environment is wrong: the key, the model's name, the address.
            SluiceError: the engine cannot be reached or does not answer as it should.
            NotStructuredError: the server takes no schema.
        """

    async def pause(self) -> None:
        """Called when nothing is asked any more, for now: lets go of what is cheap to have again (connections)."""
        return None
