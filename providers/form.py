"""Forms as data: what the inputs of a model are called where each model calls them as it likes.

The options of a model fill a form; what does not fit its card is found when they are read, and raised as CardError.
What an order asks for and its model would ignore is Refused.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import msgspec
from PIL import Image, ImageOps

from providers.card import CardError, ModelCard
from providers.contract import Input, Order, Refused, Role

Colour = Literal["white", "black", "transparent"]
Filled = TypeVar("Filled", bound="Form")
LIST = "[]"


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is asked. Names are those of the model's inputs; "" says that it has no such input.

    `size` is where a size goes: an input for the text, a pair for width and height, or for each size that the card
    lists the inputs that make it. `with_size` are inputs that go along with a size. `inputs` says where the pictures of
    a role go, else into an input of the role's own name: `name[]` takes a list of them, and of a list of names each
    takes one. `shaped_by` are roles whose picture gives the result its shape, so that none can be asked for. `mask` is
    the colour that stands for what is to be changed. `values` translates values of parameters, `fixed` is always sent.
    """

    prompt: str = "prompt"
    n: str = "num_outputs"
    aspect_ratio: str = "aspect_ratio"
    size: str | tuple[str, str] | dict[str, dict[str, Any]] = ""
    with_size: dict[str, Any] = {}
    inputs: dict[Role, str | tuple[str, ...]] = {}
    shaped_by: tuple[Role, ...] = ()
    mask: Colour = "white"
    values: dict[str, dict[str, Any]] = {}
    fixed: dict[str, Any] = {}

    def members(self, order: Order, card: ModelCard) -> dict[str, Any]:
        """The model's inputs: what is fixed, what the caller gave, and where one call makes several, how many.

        The pictures of the order are addresses already, as text.
        """
        wanted = order.generation
        if wanted.prompt and not self.prompt:
            raise Refused(f"{card.title or card.name} takes no prompt", param="prompt")
        given = card.renamed({name: self._value(name, value) for name, value in wanted.parameters.items()})
        given |= dict(wanted.extras)
        if wanted.prompt:
            given[self.prompt] = wanted.prompt
        if several(card):
            given[self.n] = wanted.n
        shape = self._shape(order)
        if clash := sorted(shape.keys() & given.keys()):
            raise Refused(f"size and {self.names(card).get(clash[0], clash[0])} exclude each other", param="size")
        return {**self.fixed, **given, **shape, **self._pictures(order)}

    def names(self, card: ModelCard) -> dict[str, str]:
        """Our word for what goes into an input, by the input's name."""
        names = {parameter.sent_as or name: name for name, parameter in card.parameters.items()}
        names |= {place.removesuffix(LIST): role.value for role in card.inputs for place in self.places(role)}
        names |= dict.fromkeys(() if isinstance(self.size, dict) else _tuple(self.size), "size")
        return names | {self.prompt: "prompt", self.n: "n", self.aspect_ratio: "aspect_ratio"}

    def places(self, role: Role) -> tuple[str, ...]:
        """The inputs that the pictures of a role go into."""
        return _tuple(self.inputs.get(role, role.value))

    def _value(self, name: str, value: Any) -> Any:
        key = str(value).lower() if isinstance(value, bool) else str(value)
        return self.values.get(name, {}).get(key, value)

    def _shape(self, order: Order) -> dict[str, Any]:
        """The inputs that make a size or an aspect ratio."""
        size, ratio = order.generation.size, order.generation.aspect_ratio
        if size is None and ratio is None:
            return {}
        if pictures := order.of(*self.shaped_by):
            param = "aspect_ratio" if size is None else "size"
            raise Refused(f"The result has the shape of the {pictures[0].role}", param=param)
        if size is None:
            return {self.aspect_ratio: ratio}
        if ratio is not None:
            raise Refused("size and aspect_ratio exclude each other", param="size")
        if isinstance(self.size, dict):
            return self.size[size] | self.with_size
        edges = [size] if isinstance(self.size, str) else map(int, size.split("x"))
        return dict(zip(_tuple(self.size), edges, strict=True)) | self.with_size

    def _pictures(self, order: Order) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for role in dict.fromkeys(one.role for one in order.inputs):
            addresses, places = [one.data.decode() for one in order.of(role)], self.places(role)
            if places[0].endswith(LIST):
                found.setdefault(places[0].removesuffix(LIST), []).extend(addresses)
            else:
                found |= dict(zip(places, addresses, strict=False))
        return found


def filled(form: type[Filled], card: ModelCard, where: str) -> Filled:
    """The form that a model's options fill; CardError, with `where` in it, when they do not, or do not fit the card."""
    try:
        made = msgspec.convert(card.options, form)
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: {error}") from error
    if several(card) and not made.n:
        raise CardError(f"{where}.n has to name the input for how many are made; else say n_per_call = 1")
    if card.aspect_ratios and not made.aspect_ratio:
        raise CardError(f"{where}.aspect_ratio has to name an input")
    for name in made.values:
        if name not in card.parameters:
            raise CardError(f"{where}.values: there is no parameter {name}; there are {', '.join(card.parameters)}")
    _check_size(made, card, where)
    _check_inputs(made, card, where)
    taken = Counter(_taken(made, card))
    if double := next((name for name, times in taken.items() if times > 1), None):
        raise CardError(f"{where}: {taken[double]} things go into the input {double}")
    return made


def several(card: ModelCard) -> bool:
    """Whether one call may make more than one output."""
    return (card.n_per_call or card.max_n) > 1


def painted(mask: Input, change: Colour) -> Input:
    """The mask in black and white, where ours is transparent in what is to be changed; takes some milliseconds."""
    if change == "transparent":
        return mask
    alpha = Image.open(io.BytesIO(mask.data)).convert("RGBA").getchannel("A")
    file = io.BytesIO()
    (alpha if change == "black" else ImageOps.invert(alpha)).save(file, "PNG")
    return msgspec.structs.replace(mask, media_type="image/png", data=file.getvalue())


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return names if isinstance(names, tuple) else (names,)


def _check_size(form: Form, card: ModelCard, where: str) -> None:
    if not form.size:
        if card.sizes or card.size_rule or form.with_size:
            raise CardError(f"{where}.size has to say where a size goes")
    elif isinstance(form.size, dict) and (card.size_rule or set(form.size) != set(card.sizes)):
        raise CardError(f"{where}.size has to have the sizes of the model, and no others: {', '.join(card.sizes)}")


def _check_inputs(form: Form, card: ModelCard, where: str) -> None:
    for role in (*form.inputs, *form.shaped_by):
        if role not in card.inputs:
            raise CardError(f"{where}: the model takes no {role}; it takes {', '.join(card.inputs) or 'nothing'}")
    for role, rule in card.inputs.items():
        places = form.places(role)
        lists = any(place.endswith(LIST) for place in places)
        if (lists and len(places) > 1) or (not lists and len(places) < rule.max):
            raise CardError(f"{where}.inputs.{role} takes {len(places)} of {rule.max}: name{LIST} stands for a list")


def _taken(form: Form, card: ModelCard) -> Iterator[str]:
    """Every input that something goes into; once for a list, which takes the pictures of several roles."""
    yield from form.fixed
    yield from card.extras
    yield from (parameter.sent_as or name for name, parameter in card.parameters.items())
    yield from (form.prompt,) if form.prompt else ()
    yield from (form.n,) if several(card) else ()
    yield from (form.aspect_ratio,) if card.aspect_ratios else ()
    if form.size and not isinstance(form.size, dict):
        yield from _tuple(form.size)
    places = [place for role in card.inputs for place in form.places(role)]
    yield from (place for place in places if not place.endswith(LIST))
    yield from {place.removesuffix(LIST) for place in places if place.endswith(LIST)}
