"""The captions that stages after select read: as given, or with personal data masked where select masked them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from stages.run_folder import RunFolder
from stages.select.decisions import select_file
from stages.store import read_parquet

_COLUMNS = ["sample_id", "caption", "captions"]


def read_captions(run: RunFolder, part: int) -> pa.Table:
    """`sample_id`, `caption` and `captions` of the part's source rows, in their order."""
    source = read_parquet(run.table_path("source", part), columns=_COLUMNS)
    path = select_file(run, "masked", part)
    if not path.exists():
        return source
    masked = read_parquet(path, filters=pc.field("sample_id").isin(source["sample_id"].combine_chunks()))
    if not masked.num_rows:
        return source
    both = pa.concat_tables([source, masked]).combine_chunks()
    place = pc.index_in(source["sample_id"], masked["sample_id"].combine_chunks())
    own = pa.chunked_array([pa.array(range(source.num_rows), pa.int32())])
    return both.take(pc.if_else(pc.is_valid(place), pc.add(place, source.num_rows), own))
