"""The source: reads tables, folders and data sets in the forms of the field, and cuts them into parts of one form."""

from stages.source.pictures import Pictures, read_picture
from stages.source.settings import SourceSettings
from stages.source.work import count_rows, read_source, write_parts

__all__ = ["Pictures", "SourceSettings", "count_rows", "read_picture", "read_source", "write_parts"]
