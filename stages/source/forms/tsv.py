"""Tables with a tabulator between the columns and one row a line."""

from __future__ import annotations

import pyarrow.csv

from stages.source.forms.csv import Csv


class Tsv(Csv):
    suffixes = (".tsv",)
    parse = pyarrow.csv.ParseOptions(delimiter="\t")
