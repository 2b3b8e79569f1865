"""A provider's card: the facts about a vendor as data, read from the TOML file beside its adapter.

A card is used to refuse what a model cannot do before anything is spent, to price, to answer `/v1/models`,
to write docs/providers.md and to drive the contract test. Unknown members are errors, so a typing slip cannot hide.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
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

    `default` is what the vendor takes when it is left out. `sent_as` is the vendor's name for it when that is not ours.
    """

    type: Literal["string", "integer", "number", "boolean"]
    values: tuple[str | int | float | bool, ...] = ()
    min: int | float | None = None
    max: int | float | None = None
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


class UsagePrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a vendor bills by its own count, as of `as_of`: USD per million of each number in the usage that it reports.

    `per_million` maps a number's place in the usage (nested names joined by dots) to its price. `total` is the place
    of the number that all of them must add up to; when they do not, something was counted that has no price here.
    """

    as_of: dt.date
    per_million: dict[str, Usd]
    total: str

    def cost(self, usage: Mapping[str, Any]) -> int | None:
        """What that usage costs in micro-USD, rounded up; None when it is not clear."""
        counts = {place: _number(usage, place) for place in self.per_million}
        total = _number(usage, self.total)
        if total == 0 or sum(counts.values()) != total:
            return None
        exact = sum((count * Decimal(self.per_million[place]) for place, count in counts.items()), Decimal())
        return int(exact.to_integral_value(ROUND_CEILING))


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
    usage_price: UsagePrice | None = None
    billed_on_failure: bool = False
    released: dt.date | None = None
    retires: dt.date | None = None

    @property
    def public_name(self) -> str:
        """The name that callers ask for."""
        return self.public or self.name

    def renamed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters under the vendor's own names."""
        ours = {name: parameter.sent_as or name for name, parameter in self.parameters.items()}
        return {ours.get(name, name): value for name, value in parameters.items()}


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


def _number(usage: Mapping[str, Any], place: str) -> int:
    """The whole number at a place in a usage, 0 when there is none."""
    value: Any = usage
    for name in place.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def decode(raw: dict[str, Any], where: str) -> Card:
    """Reads a card from what TOML gave; raises CardError that says what is wrong in `where`.

    A model may say `like = "<name>"` to take over every member of a model further up that it does not state itself.
    """
    try:
        return msgspec.convert(_expanded(raw, where), Card)
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: {error}") from error


def _expanded(raw: dict[str, Any], where: str) -> dict[str, Any]:
    """The card with every `like` replaced by what it stands for."""
    known: dict[str, dict[str, Any]] = {}
    models = raw.get("models", [])
    if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
        return raw
    for model in models:
        name, like = str(model.get("name")), model.get("like")
        if name in known:
            raise CardError(f"{where}: two models are named {name}")
        if like is not None and str(like) not in known:
            raise CardError(f"{where}: there is no model {like} above {name}")
        known[name] = model if like is None else _over(known[str(like)], model)
    return {**raw, "models": list(known.values())}


def _over(base: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    whole = {name: value for name, value in {**base, **model}.items() if name != "like"}
    if "parameters" in model and "parameters" in base:
        whole["parameters"] = {**base["parameters"], **model["parameters"]}
    return whole


def load(path: Path) -> Card:
    """Reads the card at `path`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{path.name}: {error}") from error
    return decode(raw, path.name)
