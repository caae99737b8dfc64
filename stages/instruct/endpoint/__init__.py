"""The language model that is asked: its engines, the store of its answers, and its budget."""

from stages.instruct.endpoint.answer import Answer, Messages, Usage
from stages.instruct.endpoint.budget import BudgetSpentError
from stages.instruct.endpoint.endpoint import Endpoint
from stages.instruct.endpoint.settings import EndpointSettings
from stages.instruct.endpoint.store import AnswerStore

__all__ = ["Answer", "AnswerStore", "BudgetSpentError", "Endpoint", "EndpointSettings", "Messages", "Usage"]
