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

from providers.contract import Kind, Operation, Role

ErrorClass = Literal["refused", "blocked", "bad_credential", "rate_limited", "unavailable", "unsure", "broken"]
# What these make has the shape of what they are given.
SHAPELESS = (Operation.UPSCALE, Operation.REMOVE_BACKGROUND)
Usd = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d{1,6})?$")]


class CardError(ValueError):
    """A card does not hold what a card must; the message names the file and the member."""


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One parameter of a model. `values` lists what is allowed, else `min` and `max` bound it (length for a string).

    `default` is what the vendor takes when it is left out, unless it is `required`. `sent_as` is the vendor's name for
    it when that is not ours. `operations` are those that it means something for, all when none are named.
    """

    type: Literal["string", "integer", "number", "boolean"]
    values: tuple[str | int | float | bool, ...] = ()
    min: int | float | None = None
    max: int | float | None = None
    default: str | int | float | bool | None = None
    required: bool = False
    sent_as: str | None = None
    operations: tuple[Operation, ...] = ()


class SizeRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which WIDTHxHEIGHT a model takes beside its listed sizes; ratio is the long edge over the short one."""

    multiple_of: int = 1
    min_edge: int = 1
    max_edge: int = 65535
    min_pixels: int = 1
    max_pixels: int = 2**31
    max_ratio: float = 65535.0


class InputRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many inputs of a role a model takes, and of which kind; bytes, edges and pixels are those of each."""

    min: int = 0
    max: int = 1
    media_types: tuple[str, ...] = ("image/png", "image/jpeg", "image/webp")
    max_bytes: int | None = None
    min_edge: int = 1
    max_edge: int = 65535
    min_pixels: int = 1
    max_pixels: int = 2**31


class PriceRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A price for one combination: `when` maps a member (size, quality, …) to the value that it must have."""

    usd: Usd
    when: dict[str, str] = {}


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one unit costs in USD, as of `as_of`: the first row whose `when` fits decides.

    The unit is an output, a second of each output (by the parameter `seconds`), or the whole request.
    """

    as_of: dt.date
    rows: tuple[PriceRow, ...]
    unit: Literal["image", "second", "request"] = "image"


class Beside(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a vendor counts for each output beside the output itself.

    So many for `each`, for each `byte` of the prompt in UTF-8, for each `input` that goes with the order, and for each
    `preview`.
    """

    each: int = 0
    byte: int = 0
    input: int = 0
    preview: int = 0

    def most(self, prompt: int, inputs: int, previews: int) -> int:
        """The most that is counted for one output, with a prompt of so many bytes."""
        return self.each + self.byte * prompt + self.input * inputs + self.preview * previews


class UsagePrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a vendor bills by its own count, as of `as_of`: USD per million of each number in the usage that it reports.

    `per_million` maps a number's place in the usage (nested names joined by dots) to its price. `total` is the place
    of the number that all of them must add up to; when they do not, something was counted that has no price here.
    `beside` says for such places how much may be counted that is not in the price of an output.
    """

    as_of: dt.date
    per_million: dict[str, Usd]
    total: str
    beside: dict[str, Beside] = {}

    def cost(self, usage: Mapping[str, Any]) -> int | None:
        """What that usage costs in micro-USD, rounded up; None when it is not clear."""
        counts = {place: _number(usage, place) for place in self.per_million}
        total = _number(usage, self.total)
        if total == 0 or sum(counts.values()) != total:
            return None
        return self._priced(counts)

    def most_beside(self, prompt: int, inputs: int, previews: int) -> int:
        """The most in micro-USD that one output may cost beside itself, with a prompt of so many bytes."""
        return self._priced({place: one.most(prompt, inputs, previews) for place, one in self.beside.items()})

    def _priced(self, counts: Mapping[str, int]) -> int:
        exact = sum((count * Decimal(self.per_million[place]) for place, count in counts.items()), Decimal())
        return int(exact.to_integral_value(ROUND_CEILING))


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one model of a vendor can do. `public` is the name that callers use, when it is not the vendor's own.

    `n_per_call` is how many outputs one call makes, where more of them take several calls (see `FanOut`).
    `partial_images` is how many previews of each output can be shown, and `partial_images_max_n` of how many outputs,
    where that is fewer than `max_n`. `options` is what only the adapter understands; it checks them when it is built,
    and raises CardError. `shaped` are the operations with which a size or an aspect ratio can be chosen, where not all
    of them can have one; no upscale and no background removal ever has. For those that are `wordless` a prompt means
    nothing.
    """

    name: str
    kind: Kind
    operations: tuple[Operation, ...]
    public: str | None = None
    title: str = ""
    max_n: int = 1
    n_per_call: int | None = None
    inputs: dict[Role, InputRule] = {}
    prompt_max: int = 32_000
    wordless: tuple[Operation, ...] = ()
    sizes: tuple[str, ...] = ()
    size_rule: SizeRule | None = None
    default_size: str | None = None
    aspect_ratios: tuple[str, ...] = ()
    shaped: tuple[Operation, ...] = ()
    formats: tuple[str, ...] = ("png",)
    partial_images: int = 0
    partial_images_max_n: int | None = None
    parameters: dict[str, Parameter] = {}
    extras: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    price: Price | None = None
    usage_price: UsagePrice | None = None
    billed_on_failure: bool = False
    released: dt.date | None = None
    retires: dt.date | None = None

    @property
    def public_name(self) -> str:
        """The name that callers ask for."""
        return self.public or self.name

    def parameters_for(self, operation: Operation) -> dict[str, Parameter]:
        """The parameters that mean something for an operation."""
        return {name: one for name, one in self.parameters.items() if not one.operations or operation in one.operations}

    def is_shaped(self, operation: Operation) -> bool:
        """Whether a size or an aspect ratio can be chosen with an operation."""
        return operation not in SHAPELESS and (not self.shaped or operation in self.shaped)

    def renamed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters under the vendor's own names."""
        ours = {name: parameter.sent_as or name for name, parameter in self.parameters.items()}
        return {ours.get(name, name): value for name, value in parameters.items()}


class Needs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an adapter imports that not every installation has: the modules, and what to install to have them."""

    modules: tuple[str, ...]
    install: str


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a vendor is and promises.

    `credentials` maps what the adapter calls a secret to the environment variable that holds it; a vendor without
    any needs none, and one can do without those in `optional_credentials`. `errors` maps the vendor's error codes to
    the error classes of the contract. `timeout` bounds one call and `output_ttl` is how long the vendor keeps an
    output, both in seconds. A vendor is left out where what it `needs` is not installed.
    """

    name: str
    title: str
    checked_on: dt.date
    base_url: str | None = None
    docs: tuple[str, ...] = ()
    credentials: dict[str, str] = {}
    optional_credentials: tuple[str, ...] = ()
    base_url_variable: str | None = None
    callbacks: bool = False
    can_cancel: bool = False
    can_find: bool = False
    lists_models: bool = False
    reports_progress: bool = False
    watches: bool = False
    idempotent_submit: bool = False
    private_outputs: bool = False
    accepts_any_model: bool = False
    output_hosts: tuple[str, ...] = ()
    output_ttl: int | None = None
    poll_after: float = 2.0
    timeout: float = 120.0
    needs: Needs | None = None
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

    A model may say `like = "<name>"` to take over every member of a model further up that it does not state itself;
    parameters and options are taken over one by one.
    """
    try:
        card = msgspec.convert(_expanded(raw, where), Card)
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: {error}") from error
    for model in card.models:
        if model.price is not None:
            check_price(model.price, model, f"{where}: model {model.name}")
        if model.usage_price is not None:
            check_usage_price(model.usage_price, f"{where}: model {model.name}")
    return card


def check_usage_price(price: UsagePrice, where: str) -> None:
    """Raises CardError when something is counted beside the outputs that has no price."""
    strange = next((place for place in price.beside if place not in price.per_million), None)
    if strange is not None:
        raise CardError(f"{where}: {strange} is counted and has no price; there are {', '.join(price.per_million)}")


def check_price(price: Price, model: ModelCard, where: str) -> None:
    """Raises CardError when a row of the price is for what the model does not have, so that it never fits."""
    if price.unit == "second" and "seconds" not in model.parameters and Role.VIDEO not in model.inputs:
        raise CardError(f"{where}: a price per second needs a parameter seconds")
    for member, value in (item for row in price.rows for item in row.when.items()):
        values = _values(model, member)
        if values is None:
            known = ", ".join(("size", "aspect_ratio", *model.parameters))
            raise CardError(f"{where}: a price is for {member}; there are {known}")
        if values and value not in values:
            raise CardError(f"{where}: a price is for {member} {value}; allowed are {', '.join(sorted(values))}")


def _values(model: ModelCard, member: str) -> set[str] | None:
    """What a member may be, as a price names it; empty for anything, None when the model has no such member."""
    if member == "size":
        return set() if model.size_rule else set(model.sizes)
    if member == "aspect_ratio":
        return set(model.aspect_ratios)
    parameter = model.parameters.get(member)
    if parameter is None:
        return None
    return {"true", "false"} if parameter.type == "boolean" else {priced_as(value) for value in parameter.values}


def priced_as(value: str | int | float | bool) -> str:
    """A member's value as a row of a price names it: `true`, and `5` for 5.0 as well."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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
    for member in ("parameters", "options"):
        if member in model and member in base:
            whole[member] = {**base[member], **model[member]}
    return whole


def load(path: Path) -> Card:
    """Reads the card at `path`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{path.name}: {error}") from error
    return decode(raw, path.name)
