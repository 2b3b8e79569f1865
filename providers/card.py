"""A provider's card: the facts about a vendor as data, read from the TOML file beside its adapter.

A card is used to refuse what a model cannot do before anything is spent, to price, to answer `/v1/models`,
to write docs/providers.md and to drive the contract test. Unknown members are errors, so a typing slip cannot hide.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from providers.contract import Kind, Operation

ErrorClass = Literal["refused", "blocked", "bad_credential", "rate_limited", "unavailable", "unsure", "broken"]
Usd = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d{1,6})?$")]


class CardError(ValueError):
    """A card does not hold what a card must; the message names the file and the member."""


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter of a model. `values` lists what is allowed, else `min` and `max` bound it (length for a string).

    `sent_as` is the vendor's name for it when that is not ours.
    """

    type: Literal["string", "integer", "number", "boolean"]
    values: tuple[str | int | float | bool, ...] = ()
    min: float | None = None
    max: float | None = None
    default: str | int | float | bool | None = None
    sent_as: str | None = None


class SizeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which WIDTHxHEIGHT a model takes beside its listed sizes; ratio is the long edge over the short one."""

    multiple_of: int = 1
    min_edge: int = 1
    max_edge: int = 65535
    min_pixels: int = 1
    max_pixels: int = 2**31
    max_ratio: float = 65535.0


class PriceRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price for one combination: `when` maps a member (size, quality, …) to the value that it must have."""

    usd: Usd
    when: dict[str, str] = {}


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one unit costs in USD, as of `as_of`: the first row whose `when` fits decides."""

    as_of: dt.date
    rows: tuple[PriceRow, ...]
    unit: Literal["image", "second"] = "image"


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model of a vendor can do. `public` is the name that callers use, when it is not the vendor's own."""

    name: str
    kind: Kind
    operations: tuple[Operation, ...]
    public: str | None = None
    title: str = ""
    max_n: int = 1
    prompt_max: int = 32_000
    sizes: tuple[str, ...] = ()
    size_rule: SizeRule | None = None
    default_size: str | None = None
    aspect_ratios: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("png",)
    partial_images: int = 0
    parameters: dict[str, Parameter] = {}
    extras: tuple[str, ...] = ()
    price: Price | None = None
    billed_on_failure: bool = False
    released: dt.date | None = None
    retires: dt.date | None = None

    @property
    def public_name(self) -> str:
        """The name that callers ask for."""
        return self.public or self.name


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a vendor is and promises.

    `credentials` maps what the adapter calls a secret to the environment variable that holds it; a vendor without
    any needs none. `errors` maps the vendor's error codes to the error classes of the contract. `timeout` bounds one
    call and `output_ttl` is how long the vendor keeps an output, both in seconds.
    """

    name: str
    title: str
    checked_on: dt.date
    base_url: str | None = None
    docs: tuple[str, ...] = ()
    credentials: dict[str, str] = {}
    base_url_variable: str | None = None
    can_cancel: bool = False
    can_find: bool = False
    reports_progress: bool = False
    idempotent_submit: bool = False
    private_outputs: bool = False
    accepts_any_model: bool = False
    output_hosts: tuple[str, ...] = ()
    output_ttl: int | None = None
    poll_after: float = 2.0
    timeout: float = 120.0
    errors: dict[str, ErrorClass] = {}
    models: tuple[ModelCard, ...] = ()

    def model(self, name: str) -> ModelCard | None:
        """The model with that vendor name, or None."""
        return next((model for model in self.models if model.name == name), None)


def decode(raw: dict[str, Any], where: str) -> Card:
    """Reads a card from what TOML gave; raises CardError that says what is wrong in `where`."""
    try:
        return msgspec.convert(raw, Card)
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: {error}") from error


def load(path: Path) -> Card:
    """Reads the card at `path`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{path.name}: {error}") from error
    return decode(raw, path.name)
