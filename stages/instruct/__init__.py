"""Instruct: conversations about pictures, from captions and boxes, by templates and by a text-only language model."""

from stages.instruct.place import instruct_place
from stages.instruct.settings import EndpointSettings, InstructSettings
from stages.instruct.work import InstructWork

__all__ = ["EndpointSettings", "InstructSettings", "InstructWork", "instruct_place"]
