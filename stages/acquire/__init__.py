"""Acquire: downloads, checks, decodes and shrinks pictures. The only stage that asks the network for data."""

from stages.acquire.settings import AcquireSettings
from stages.acquire.work import AcquireWork, acquire_place

__all__ = ["AcquireSettings", "AcquireWork", "acquire_place"]
