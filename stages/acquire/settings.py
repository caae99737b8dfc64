"""The recipe's `acquire:` section."""

from __future__ import annotations

import ipaddress
from typing import Any, Literal

from pydantic import Field, field_validator

from schemas.settings import Settings

#: Keys that change how fast or how patiently rows are asked for. Rows they turn out differently for have transient
#: reasons, which `--retry-failed` asks for again; a change of one must not download everything anew.
_PATIENCE = {
    "actors",
    "concurrency",
    "connect_timeout_s",
    "contact",
    "deadline_s",
    "host_failures",
    "host_pause_s",
    "parts_at_once",
    "per_host",
    "per_host_rate",
    "read_timeout_s",
    "retries",
}
_PRINTABLE = r"^[\x20-\x7e]+$"


class AcquireSettings(Settings):
    """How pictures are asked for, what is refused, and in which form they are stored."""

    engine: Literal["aiohttp", "img2dataset"] = Field(
        "aiohttp", description="what downloads; img2dataset drives that library under the same rules, to compare"
    )
    size: int = Field(336, ge=16, le=8192, description="longest side of a stored picture, pixels; none is enlarged")
    resize: Literal["keep_ratio", "no"] = Field("keep_ratio", description="'no' stores pictures at their full size")
    jpeg_quality: int = Field(95, ge=1, le=100, description="of pictures that are encoded again")
    reencode: Literal["when_needed", "always"] = Field(
        "when_needed", description="'when_needed' keeps a plain JPEG that is small enough byte for byte"
    )
    background: str = Field(
        "#ffffff", pattern="^#[0-9a-fA-F]{6}$", description="colour that shows through transparency, as #rrggbb"
    )
    actors: int = Field(2, ge=1, description="download actors, each with its own connections")
    parts_at_once: int = Field(
        2, ge=1, le=16, description="parts under way at once, per actor, so that slow rows hold up no others"
    )
    concurrency: int = Field(256, ge=1, le=4096, description="rows asked for at the same time, per actor")
    per_host: int = Field(8, ge=1, description="requests to one host at the same time, per actor")
    per_host_rate: float | None = Field(
        None, gt=0, description="requests to one host per second, per actor; no limit where it is not given"
    )
    connect_timeout_s: float = Field(10, gt=0, description="time for one connection to open, seconds")
    read_timeout_s: float = Field(10, gt=0, description="longest silence while an answer comes, seconds")
    deadline_s: float = Field(
        30,
        gt=0,
        description="total for one URL, seconds: redirects, retries and pauses; not the wait for its host's turn",
    )
    retries: int = Field(2, ge=0, le=10, description="further tries after a time-out, 429 or 5xx")
    host_failures: int = Field(
        20,
        ge=0,
        description="failures in a row after which a host's rows are dropped unasked for host_pause_s; 0: never",
    )
    host_pause_s: float = Field(
        60, gt=0, description="seconds until a failing host, or a robots.txt out of reach, is asked again"
    )
    max_redirects: int = Field(5, ge=0, le=20, description="redirects followed for one URL")
    max_mb: float = Field(20, gt=0, description="largest answer, MB (10^6 bytes) after decompression")
    max_pixels: int = Field(
        50_000_000, ge=1, le=170_000_000, description="most pixels (width x height) that are decoded"
    )
    min_pixels: int = Field(256, ge=1, description="fewest pixels (width x height) that are kept")
    allow_networks: list[str] = Field(
        default_factory=list, description="private networks that may be asked, in CIDR form, such as 127.0.0.0/8"
    )
    respect_robots: bool = Field(True, description="obey each host's robots.txt (RFC 9309)")
    respect_opt_out: bool = Field(
        True, description="drop pictures whose X-Robots-Tag or tdm-reservation header opts out of machine learning"
    )
    user_agent: str = Field(
        "sluice/0.1", pattern=_PRINTABLE, description="who asks; robots.txt is matched by the word before the slash"
    )
    contact: str = Field(
        "https://example.invalid/sluice-operator",
        pattern=_PRINTABLE,
        description="address of the person to complain to, sent with user_agent",
    )

    @field_validator("allow_networks")
    @classmethod
    def _check_networks(cls, networks: list[str]) -> list[str]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @property
    def max_bytes(self) -> int:
        return int(self.max_mb * 1_000_000)

    @property
    def identification(self) -> str:
        """The User-Agent header."""
        return f"{self.user_agent} (+{self.contact})"

    @property
    def robot(self) -> str:
        """The product token that robots.txt and X-Robots-Tag are matched against."""
        return self.user_agent.split("/")[0].strip().lower()

    def content(self) -> dict[str, Any]:
        """The keys that decide what is stored, JSON-able: without those of speed and patience."""
        return self.model_dump(mode="json", exclude=_PATIENCE)
