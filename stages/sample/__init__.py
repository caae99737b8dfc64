"""The known world: scenes with captions, boxes and every kind of trouble the web serves, with the truth about each."""

from stages.sample.world import NoiseRates, make_world

__all__ = ["NoiseRates", "make_world"]
