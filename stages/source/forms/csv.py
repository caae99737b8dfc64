"""Tables with a comma between the columns; quoted values may run over several lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.csv

from stages.source.forms.base import Form

_BLOCK_BYTES = 16 << 20


class Csv(Form):
    suffixes = (".csv",)
    #: How a line is read.
    parse: ClassVar = pyarrow.csv.ParseOptions(delimiter=",", newlines_in_values=True)

    def check(self) -> None:
        for place in self.places:
            with place.open() as file:
                if file.read(1):
                    file.seek(0)
                    with self._reader(file) as reader:
                        self.require(place, self.settings.columns(), reader.schema.names)

    def tables(self) -> Iterator[pa.Table]:
        columns = self.settings.columns()
        wanted = list(dict.fromkeys(columns.values()))
        convert = pyarrow.csv.ConvertOptions(
            include_columns=wanted, column_types={column: pa.string() for column in wanted}
        )
        for place in self.places:
            with place.open() as file:
                if not file.read(1):
                    continue
                file.seek(0)
                with self._reader(file, convert) as reader:
                    for batch in reader:
                        table = pa.Table.from_batches([batch])
                        yield table.select(list(columns.values())).rename_columns(list(columns))

    def _reader(
        self, file: BinaryIO, convert: pyarrow.csv.ConvertOptions | None = None
    ) -> pyarrow.csv.CSVStreamingReader:
        return pyarrow.csv.open_csv(file, pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES), self.parse, convert)
