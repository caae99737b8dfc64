"""Parquet tables."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from stages.source.forms.base import Form


class Parquet(Form):
    suffixes = (".parquet",)

    def check(self) -> None:
        for place in self.places:
            with place.open() as file, pq.ParquetFile(file) as table:
                self.require(place, self.settings.columns(), table.schema_arrow.names)

    def tables(self) -> Iterator[pa.Table]:
        columns = self.settings.columns()
        wanted = list(dict.fromkeys(columns.values()))
        for place in self.places:
            with place.open() as file, pq.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=self.settings.rows_per_part, columns=wanted):
                    yield pa.Table.from_batches([batch]).select(list(columns.values())).rename_columns(list(columns))

    def count(self) -> int | None:
        rows = 0
        for place in self.places:
            with place.open() as file, pq.ParquetFile(file) as table:
                rows += table.metadata.num_rows
        return rows
