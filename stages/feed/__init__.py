"""Feed: conversations become shards, a plan of packs, and batches for the trainer."""

from stages.feed.plan import plan_batches, plan_packs, write_plan
from stages.feed.reader import PackReader
from stages.feed.settings import FeedSettings
from stages.feed.shards import ShardWork

__all__ = ["FeedSettings", "PackReader", "ShardWork", "plan_batches", "plan_packs", "write_plan"]
