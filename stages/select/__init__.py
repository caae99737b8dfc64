"""Decides which samples are kept, from columns only: rules, CLIP score, then exact, perceptual and semantic dedup."""

from stages.select.decide import decide, write_decisions
from stages.select.inputs import check_inputs
from stages.select.settings import SelectSettings

__all__ = ["SelectSettings", "check_inputs", "decide", "write_decisions"]
