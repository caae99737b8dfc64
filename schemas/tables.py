"""Arrow schemas of the tables in a run folder. Units and meanings stand in the comments beside each field."""

from __future__ import annotations

import pyarrow as pa

BOX = pa.struct(
    [
        ("label", pa.string()),
        ("x", pa.float32()),  # left edge, pixels of the original picture
        ("y", pa.float32()),  # top edge
        ("w", pa.float32()),
        ("h", pa.float32()),
    ]
)

#: RUN/source/00000.parquet: the source, cut into parts, with ids.
SOURCE = pa.schema(
    [
        ("sample_id", pa.string()),
        ("row", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),  # every caption known; holds `caption` at least
        ("boxes", pa.list_(BOX)),  # in the units of the recipe's `source.box_units`
        ("licence", pa.string()),
        # JSON text of LLaVA's [{from, value}]; an answer may have its `kind`. Null where the source holds none.
        ("conversation", pa.string()),
        ("text_only", pa.bool_()),  # the row is a conversation about no picture
        ("picture_file", pa.string()),  # absolute path or fsspec address; null: to be downloaded from `url`
        ("picture_offset", pa.int64()),  # of the picture's bytes in a tar; null: the whole file
        ("picture_size", pa.int64()),  # bytes; null where only reading the file would tell
        ("reason", pa.string()),  # bad_row, or null
    ]
)

#: Sides of the two luma and the two chroma pictures in a thumbnail.
THUMBNAIL_LUMA_PX, THUMBNAIL_CHROMA_PX = 16, 8

#: RUN/samples/00000.parquet: img2dataset's columns first, then ours. One row for every source row of the part.
SAMPLES = pa.schema(
    [
        ("key", pa.string()),  # five digits of the part, four of the place in it: the name in the tar
        ("url", pa.string()),
        ("caption", pa.string()),
        ("status", pa.string()),  # success | failed_to_download | failed_to_resize, as img2dataset has it
        ("error_message", pa.string()),
        ("width", pa.int32()),  # as stored
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),  # of the bytes as downloaded
        ("sample_id", pa.string()),
        ("row", pa.int64()),
        ("http_status", pa.int32()),
        ("pixels_sha256", pa.string()),  # of the picture's pixels, upright and in sRGB, before it was encoded
        ("phash", pa.string()),  # 16 hex digits
        ("phash_variants", pa.list_(pa.uint64(), 3)),  # of the picture mirrored, its centre 90%, and that mirrored
        # Bytes, row by row: luma of the picture, luma of its centre 90%, blue chroma and red chroma of the picture.
        ("thumbnail", pa.binary(2 * THUMBNAIL_LUMA_PX**2 + 2 * THUMBNAIL_CHROMA_PX**2)),
        ("boxes", pa.list_(BOX)),  # pixels of the original picture; null where it has none, or no picture came
        ("text_only", pa.bool_()),  # the row has no picture and needs none
        ("reason", pa.string()),  # null where the picture is in the tar, or the row needs none
    ]
)


def vectors(dim: int) -> pa.Schema:
    """RUN/vectors/00000.parquet: one row for every picture in the part's tar. Vectors have length 1.

    Those of a further model, `select.models.NAME`, lie in RUN/vectors/NAME/00000.parquet.
    """
    return pa.schema(
        [
            ("sample_id", pa.string()),
            ("clip_score", pa.float32()),  # cosine of picture and caption
            ("vector", pa.list_(pa.float16(), dim)),
            ("made_from", pa.string()),  # digest of the stored picture, the caption, the model and its settings
        ]
    )


#: RUN/decisions.parquet: one row for every source row; select's word on it.
DECISIONS = pa.schema(
    [
        ("sample_id", pa.string()),
        ("row", pa.int64()),
        ("part", pa.int32()),
        ("state", pa.string()),
        ("stage", pa.string()),  # null where kept
        ("reason", pa.string()),  # null where kept
        ("duplicate_of", pa.string()),
        ("clip_score", pa.float32()),
        ("split", pa.string()),  # train | val; null where dropped
    ]
)

#: RUN/masked.parquet: captions of samples from which personal data was masked; they stand in place of the source's.
MASKED = pa.schema([("sample_id", pa.string()), ("caption", pa.string()), ("captions", pa.list_(pa.string()))])

#: RUN/contamination.parquet: every sample that is near a named evaluation set, and what of it.
CONTAMINATION = pa.schema(
    [
        ("sample_id", pa.string()),
        ("set", pa.string()),  # its name in the recipe
        ("item", pa.string()),  # a picture's path in its folder, the sample_id in a run, or a question
        ("by", pa.string()),  # perceptual | semantic | text
        ("value", pa.float32()),  # bits in which the hashes differ | cosine | runs of words that are shared
    ]
)


def scores(measures: list[str]) -> pa.Schema:
    """RUN/scores.parquet: one row for every source row, one column for every measure that a threshold stands on."""
    return pa.schema(
        [("sample_id", pa.string()), ("row", pa.int64()), *((measure, pa.float32()) for measure in measures)]
    )


TURN = pa.struct([("question", pa.string()), ("answer", pa.string()), ("kind", pa.string())])

#: RUN/conversations/00000.parquet: one row for every conversation; a sample may have several.
CONVERSATIONS = pa.schema(
    [
        ("conversation_id", pa.string()),  # sample_id, a hyphen, a number
        ("sample_id", pa.string()),
        ("kind", pa.string()),  # conversation | detail | reasoning | template | caption | source | ...
        ("origin", pa.string()),  # "template", "endpoint", or "source": taken in as it is
        ("model", pa.string()),  # the endpoint's model; null for templates
        ("prompt_version", pa.string()),
        ("turns", pa.list_(TURN)),
        ("text_only", pa.bool_()),  # it is about no picture
        ("apart", pa.bool_()),  # each turn is asked by itself
    ]
)

#: RUN/rejected/00000.parquet: one row for every turn or whole conversation that a gate refused.
REJECTED = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("sample_id", pa.string()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),  # what the gate saw, for example the object that nothing supports
        ("scope", pa.string()),  # turn | conversation
        ("question", pa.string()),  # null where the whole answer could not be read
        ("answer", pa.string()),
        ("retried", pa.bool_()),  # the language model was asked once more, with the reason
    ]
)

#: RUN/shards/train-000000.index.parquet: one row for every sample in the shard.
SHARD_INDEX = pa.schema(
    [
        ("sample_id", pa.string()),
        ("shard", pa.string()),  # file name without folder
        ("key", pa.string()),
        ("offset", pa.int64()),  # of the sample's first tar header; one range read of `size` bytes holds it whole
        ("size", pa.int64()),
        ("picture_offset", pa.int64()),  # of the JPEG's bytes, from the shard's begin; null where there is no picture
        ("picture_size", pa.int64()),
        ("picture_crc", pa.int64()),  # CRC-32 of the JPEG's bytes, as zlib computes it
        ("json_offset", pa.int64()),
        ("json_size", pa.int64()),
        ("json_crc", pa.int64()),
        ("width", pa.int32()),  # of the picture as it lies in the shard, pixels; null where there is none
        ("height", pa.int32()),
    ]
)

#: RUN/lengths/00000.parquet: one row for every conversation in the shards.
LENGTHS = pa.schema(
    [
        ("conversation_id", pa.string()),
        ("sample_id", pa.string()),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("part", pa.int32()),
        ("length", pa.int32()),  # tokens, picture tokens counted in
        ("supervised", pa.int32()),  # tokens that carry loss
        ("text_only", pa.bool_()),
        ("tiles", pa.int32()),  # squares of the picture that the vision tower sees; 0 where there is no picture
    ]
)

#: RUN/plan/<step name>.parquet: which conversations stand in which pack, in training order. Of a step that streamed
#: also RUN/plan/<step name>/00000.parquet, what each part added.
PLAN = pa.schema(
    [
        ("pack", pa.int64()),
        ("position", pa.int32()),  # place in the pack
        ("epoch", pa.int32()),
        ("conversation_id", pa.string()),
        ("sample_id", pa.string()),
        ("length", pa.int32()),
        ("supervised", pa.int32()),
        ("source", pa.string()),  # which source of the mixture: the conversation's kind
    ]
)

#: RUN/ledger/00000.parquet: exactly one row for every source row.
LEDGER = pa.schema(
    [
        ("sample_id", pa.string()),
        ("row", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("state", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("http_status", pa.int32()),
        ("image_sha256", pa.string()),
        ("phash", pa.string()),
        ("width", pa.int32()),  # of the original
        ("height", pa.int32()),
        ("clip_score", pa.float32()),
        ("duplicate_of", pa.string()),
        ("dedup", pa.string()),  # where it is a duplicate: all | earlier, the rows that it was compared with
        ("split", pa.string()),
        ("shard", pa.string()),
        ("shard_offset", pa.int64()),
    ]
)
