"""The ledger's vocabulary: every reason a row can be dropped for, and the stage that drops it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages in the order in which data passes them."""

    SOURCE = "source"
    ACQUIRE = "acquire"
    EMBED = "embed"
    SELECT = "select"
    INSTRUCT = "instruct"
    FEED = "feed"
    TRAIN = "train"
    EVALUATE = "evaluate"
    EXPORT = "export"
    REPORT = "report"


class State(StrEnum):
    KEPT = "kept"
    DROPPED = "dropped"


class DedupRule(StrEnum):
    """What a duplicate was compared with."""

    ALL = "all"  # all rows of the run at once
    EARLIER = "earlier"  # its own part and what was kept of the parts before it: a stream's rule


@dataclass(frozen=True)
class ReasonInfo:
    """What a reason means; `transient` ones are asked for again by `sluice run --retry-failed`."""

    stage: Stage
    text: str
    transient: bool = False


class Reason(StrEnum):
    """Why a row was dropped. The value is what stands in the ledger."""

    BAD_ROW = "bad_row"
    # acquire: the request
    BAD_URL = "bad_url"
    BLOCKED_ADDRESS = "blocked_address"
    DNS_ERROR = "dns_error"
    CONNECT_ERROR = "connect_error"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    HOST_FAILING = "host_failing"
    TOO_LARGE = "too_large"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    HTTP_CLIENT_ERROR = "http_4xx"
    HTTP_SERVER_ERROR = "http_5xx"
    HTTP_OTHER = "http_other"
    PROTOCOL_ERROR = "protocol_error"
    ROBOTS = "robots_txt"
    OPT_OUT = "opt_out"
    NO_FILE = "no_file"
    # acquire: the picture
    NOT_A_PICTURE = "not_a_picture"
    DECODE_ERROR = "decode_error"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_FEW_PIXELS = "too_few_pixels"
    BAD_BOXES = "bad_boxes"
    # select
    PICTURE_TOO_SMALL = "picture_too_small"
    PICTURE_TOO_LARGE = "picture_too_large"
    ASPECT_RATIO = "aspect_ratio"
    CAPTION_SHORT = "caption_short"
    CAPTION_LONG = "caption_long"
    CAPTION_BOILERPLATE = "caption_boilerplate"
    CAPTION_LANGUAGE = "caption_language"
    CAPTION_REPEATED = "caption_repeated"
    CAPTION_VARIETY = "caption_variety"
    PERSONAL_DATA = "personal_data"
    BAD_VECTOR = "bad_vector"
    CLIP_SCORE = "clip_score"
    AESTHETIC = "aesthetic"
    WATERMARK = "watermark"
    UNSAFE = "unsafe"
    TEXT_BASED = "text_based"
    IMAGE_BASED = "image_based"
    STRATEGY = "strategy"
    CONTAMINATED_PICTURE = "contaminated_picture"
    CONTAMINATED_TEXT = "contaminated_text"
    DUPLICATE_EXACT = "duplicate_exact"
    DUPLICATE_PERCEPTUAL = "duplicate_perceptual"
    DUPLICATE_SEMANTIC = "duplicate_semantic"
    # instruct
    NO_CONTEXT = "no_context"
    CAPTION_INSTRUCTS = "caption_instructs"
    UNGROUNDED = "ungrounded"
    LEAK = "leak"
    REFUSAL = "refusal"
    REPETITION = "repetition"
    ANSWER_LANGUAGE = "answer_language"
    ANSWER_LENGTH = "answer_length"
    BROKEN_TURNS = "broken_turns"
    ASKED_TWICE = "asked_twice"
    NOT_VISUAL = "not_visual"
    NO_CONVERSATION = "no_conversation"
    # feed
    TOO_LONG = "too_long"

    @property
    def info(self) -> ReasonInfo:
        """The stage that gives this reason, what it means, and whether it may pass by itself."""
        return _INFO[self]


_A, _S, _I = Stage.ACQUIRE, Stage.SELECT, Stage.INSTRUCT
_INFO: dict[Reason, ReasonInfo] = {
    Reason.BAD_ROW: ReasonInfo(Stage.SOURCE, "no url, caption or picture, or its boxes or conversation do not parse"),
    Reason.BAD_URL: ReasonInfo(_A, "not an http or https address"),
    Reason.BLOCKED_ADDRESS: ReasonInfo(_A, "the address is private, loopback, link-local or reserved"),
    Reason.DNS_ERROR: ReasonInfo(_A, "the host name has no address", transient=True),
    Reason.CONNECT_ERROR: ReasonInfo(_A, "the connection was refused or broke", transient=True),
    Reason.TIMEOUT: ReasonInfo(_A, "no byte came within the connect or read time-out", transient=True),
    Reason.DEADLINE: ReasonInfo(_A, "the whole answer did not come within the total deadline", transient=True),
    Reason.HOST_FAILING: ReasonInfo(_A, "not asked for: its host had failed many times in a row", transient=True),
    Reason.TOO_LARGE: ReasonInfo(_A, "the answer is larger than the size cap"),
    Reason.TOO_MANY_REDIRECTS: ReasonInfo(_A, "more redirects than allowed"),
    Reason.HTTP_CLIENT_ERROR: ReasonInfo(_A, "the server answered 4xx: the picture is not there"),
    Reason.HTTP_SERVER_ERROR: ReasonInfo(_A, "the server answered 5xx or 429", transient=True),
    Reason.HTTP_OTHER: ReasonInfo(_A, "the server answered with a status that carries no picture"),
    Reason.PROTOCOL_ERROR: ReasonInfo(_A, "the answer breaks the rules of HTTP or its compression"),
    Reason.ROBOTS: ReasonInfo(_A, "the host's robots.txt does not allow this address"),
    Reason.OPT_OUT: ReasonInfo(_A, "the answer's headers opt out of machine learning"),
    Reason.NO_FILE: ReasonInfo(_A, "the file that the source names is not there or cannot be read", transient=True),
    Reason.NOT_A_PICTURE: ReasonInfo(_A, "the answer is not a picture of a known form"),
    Reason.DECODE_ERROR: ReasonInfo(_A, "the picture is broken or cut short"),
    Reason.TOO_MANY_PIXELS: ReasonInfo(_A, "the picture has more pixels than allowed"),
    Reason.TOO_FEW_PIXELS: ReasonInfo(_A, "the picture has fewer pixels than allowed"),
    Reason.BAD_BOXES: ReasonInfo(_A, "a box reaches far beyond the picture; see source.box_form and box_units"),
    Reason.PICTURE_TOO_SMALL: ReasonInfo(_S, "the picture's shorter side is under the rule's limit"),
    Reason.PICTURE_TOO_LARGE: ReasonInfo(_S, "the picture has more pixels than the rule's limit"),
    Reason.ASPECT_RATIO: ReasonInfo(_S, "the picture is too long and thin"),
    Reason.CAPTION_SHORT: ReasonInfo(_S, "the caption has too few words"),
    Reason.CAPTION_LONG: ReasonInfo(_S, "the caption has too many words"),
    Reason.CAPTION_BOILERPLATE: ReasonInfo(_S, "the caption says nothing of the picture (a file name, a stock phrase)"),
    Reason.CAPTION_LANGUAGE: ReasonInfo(_S, "the caption is in none of the languages that are asked for"),
    Reason.CAPTION_REPEATED: ReasonInfo(_S, "the same caption stands beside many different pictures"),
    Reason.CAPTION_VARIETY: ReasonInfo(_S, "the caption says the same words over and over"),
    Reason.PERSONAL_DATA: ReasonInfo(_S, "the caption holds an e-mail address or a telephone number"),
    Reason.BAD_VECTOR: ReasonInfo(_S, "the picture's vector is zero or not a number"),
    Reason.CLIP_SCORE: ReasonInfo(_S, "picture and caption do not fit each other well enough"),
    Reason.AESTHETIC: ReasonInfo(_S, "the aesthetic head's score is beyond its threshold"),
    Reason.WATERMARK: ReasonInfo(_S, "the watermark head's score is beyond its threshold"),
    Reason.UNSAFE: ReasonInfo(_S, "the unsafe-content head's score is beyond its threshold"),
    Reason.TEXT_BASED: ReasonInfo(_S, "the caption names none of the concepts of the strategy text_based"),
    Reason.IMAGE_BASED: ReasonInfo(_S, "the picture's cluster is near none of the strategy image_based's references"),
    Reason.STRATEGY: ReasonInfo(_S, "none of the strategy's alternatives keeps it"),
    Reason.CONTAMINATED_PICTURE: ReasonInfo(_S, "the picture is near one of a named evaluation set"),
    Reason.CONTAMINATED_TEXT: ReasonInfo(_S, "the caption shares a run of words with a named evaluation set"),
    Reason.DUPLICATE_EXACT: ReasonInfo(_S, "the same bytes as a kept picture"),
    Reason.DUPLICATE_PERCEPTUAL: ReasonInfo(_S, "nearly the same pixels as a kept picture"),
    Reason.DUPLICATE_SEMANTIC: ReasonInfo(_S, "nearly the same CLIP vector as a kept picture"),
    Reason.NO_CONTEXT: ReasonInfo(_I, "no caption and no box that a conversation could be made from"),
    Reason.CAPTION_INSTRUCTS: ReasonInfo(_I, "a caption tries to give the language model orders"),
    Reason.UNGROUNDED: ReasonInfo(_I, "an answer names what neither captions nor boxes support"),
    Reason.LEAK: ReasonInfo(_I, "an answer gives away that it was written from captions or boxes"),
    Reason.REFUSAL: ReasonInfo(_I, "the language model refused, or spoke of itself"),
    Reason.REPETITION: ReasonInfo(_I, "an answer goes round in circles"),
    Reason.ANSWER_LANGUAGE: ReasonInfo(_I, "an answer is in none of the languages that are asked for"),
    Reason.ANSWER_LENGTH: ReasonInfo(_I, "an answer is too short or too long"),
    Reason.BROKEN_TURNS: ReasonInfo(_I, "the answer has not the form that was asked for"),
    Reason.ASKED_TWICE: ReasonInfo(_I, "a question was asked before in the same conversation"),
    Reason.NOT_VISUAL: ReasonInfo(_I, "the question can be answered without the picture"),
    Reason.NO_CONVERSATION: ReasonInfo(_I, "no kind of conversation could be made of it"),
    Reason.TOO_LONG: ReasonInfo(Stage.FEED, "no conversation of it fits into a pack with its picture whole"),
}
