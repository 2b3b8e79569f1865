"""The catalog: public models, the routes behind them, and what may be asked of each."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core import instances
from gateway.core.config import AliasConfig, ModelConfig, RouteConfig
from gateway.core.errors import GatewayError, shown
from gateway.core.instances import DEFAULT, Instance, checked_price
from gateway.core.settings import Settings, SettingsError
from providers.card import ModelCard, Price
from providers.contract import Kind, Operation, Provider
from providers.registry import Registry

Way = tuple[str, str, str]
# How many names are offered for one that is unknown.
CLOSE = 3
# No name is so long that somebody mistook it for another.
LONGEST = 100


class Route(msgspec.Struct, frozen=True):
    """One way to serve a model: a provider instance by name, that vendor's card of the model, and the price there.

    With `fixed` it is the operator's own price, whatever the vendor says that it bills. Routes of the lowest `order`
    come first, and share the work by `weight`, which the credentials of a provider divide among them.
    """

    provider: str
    card: ModelCard
    price: Price | None
    fixed: bool = False
    credential: str = DEFAULT
    order: int = 0
    weight: float = 1

    @property
    def place(self) -> tuple[str, str]:
        """Provider and vendor's name of the model, which an attempt on this route is recorded with."""
        return self.provider, self.card.name

    @property
    def way(self) -> Way:
        """The place, and the credential that is used there."""
        return self.provider, self.credential, self.card.name


class Model(msgspec.Struct, frozen=True):
    """A public model: its routes in the order of preference, and members for requests that lack them."""

    name: str
    routes: tuple[Route, ...]
    defaults: Mapping[str, Any] = {}
    response_format: str | None = None

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What any of its routes can do, in the card's order."""
        return tuple(dict.fromkeys(operation for route in self.routes for operation in route.card.operations))

    @property
    def streams(self) -> bool:
        """Whether any of its routes shows previews."""
        return any(route.card.partial_images for route in self.routes)

    @property
    def priced(self) -> bool:
        """Whether a price is known on any of its routes."""
        return any(route.price for route in self.routes)


class Catalog:
    """All models that this installation serves, and the providers behind them; `unpriced`: also without a price.

    `models` are those that can be served now, as far as providers have said what they have. No picture with more than
    `max_pixels` is ordered, for none is taken in.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        aliases: Mapping[str, AliasConfig],
        providers: Mapping[str, Provider],
        *,
        unpriced: bool = False,
        max_pixels: int = sys.maxsize,
    ) -> None:
        self.models = models
        self.aliases = aliases
        self.providers = providers
        self.unpriced = unpriced
        self.max_pixels = max_pixels
        self._configured = models
        self._listed: dict[str, dict[str, ModelCard]] = {}

    def provider(self, name: str, credential: str) -> Provider | None:
        """The provider with that credential; None when the configuration has it no more."""
        return self.providers.get(_key(name, credential))

    def model(self, name: str) -> Model:
        """The model of that name or alias; raises `model_not_found`."""
        found = self.find(name)
        if found is None:
            raise self.unknown(name)
        return found

    def unknown(self, name: str, param: str = "model") -> GatewayError:
        """The error of a name that no model or alias has, with the names that are like it."""
        # The search takes time by the length, which is the caller's.
        close = ", ".join(difflib.get_close_matches(name, self.names(), CLOSE)) if len(name) <= LONGEST else ""
        hint = f" Did you mean {close}?" if close else ""
        message = f"The model {shown(name)} does not exist here.{hint} GET /v1/models lists all."
        return GatewayError("model_not_found", message, param=param)

    def find(self, name: str) -> Model | None:
        """The model of that name or alias, or None."""
        alias = self.aliases.get(name)
        return self.models.get(alias.model if alias else name)

    def names(self) -> Iterator[str]:
        """Every name that may be asked for now: models, then aliases of these."""
        offered = [model.name for model in self.offered()]
        yield from offered
        yield from (name for name, alias in self.aliases.items() if alias.model in offered)

    def offered(self) -> list[Model]:
        """The models that may be asked for now."""
        return [model for model in self.models.values() if self.unpriced or model.priced]

    def refused(self) -> list[str]:
        """The names of the models that are refused because no price is known for them."""
        return [name for name, model in self.models.items() if not (self.unpriced or model.priced)]

    def narrow(self, key: str, cards: Sequence[ModelCard]) -> None:
        """Notes what the provider of that key has now; a model that nobody has any more is not offered."""
        self._listed[key] = {card.name: card for card in cards}
        narrowed = {name: self._as_listed(model) for name, model in self._configured.items()}
        self.models = {name: model for name, model in narrowed.items() if model.routes}

    def _as_listed(self, model: Model) -> Model:
        routes = []
        for route in model.routes:
            listed = self._listed.get(_key(route.provider, route.credential))
            if listed is None:
                routes.append(route)
            elif card := listed.get(route.card.name):
                routes.append(msgspec.structs.replace(route, card=card))
        return msgspec.structs.replace(model, routes=tuple(routes))

    def first_for(self, kind: Kind, operation: Operation) -> str | None:
        """The first model that does that, whoever is asked for none."""
        found = (model for model in self.offered() if operation in model.operations)
        return next((one.name for one in found if one.routes[0].card.kind == kind), None)

    async def close(self) -> None:
        """Closes the providers' connections."""
        for provider in self.providers.values():
            await provider.http.close()


def build(settings: Settings, registry: Registry) -> Catalog:
    """Makes the catalog of everything whose credentials are there, and of what heliograph.toml adds.

    Raises SettingsError when the file names a vendor, provider or model that does not exist.
    """
    found = instances.find(settings, registry)
    providers = {
        _key(one.name, one.credential): registry.build(one.vendor, one.card, base_url=one.base_url, secrets=one.secrets)
        for one in found
    }
    models = _models(settings, found)
    unpriced = settings.unpriced_models == "allow"
    aliases = _aliases(settings, models)
    return Catalog(models, aliases, providers, unpriced=unpriced, max_pixels=settings.max_pixels)


def _key(name: str, credential: str) -> str:
    return name if credential == DEFAULT else f"{name}:{credential}"


def _aliases(settings: Settings, models: Mapping[str, Model]) -> dict[str, AliasConfig]:
    aliases = {
        name: alias if isinstance(alias, AliasConfig) else AliasConfig(model=alias)
        for name, alias in settings.aliases.items()
    }
    for name, alias in aliases.items():
        if name in models:
            raise SettingsError(f"aliases.{name}: there is a model of that name already")
        if alias.model not in models:
            raise SettingsError(f"aliases.{name}: there is no model {alias.model}; there are {', '.join(models)}")
    return aliases


def _models(settings: Settings, found: Sequence[Instance]) -> dict[str, Model]:
    """Each offered model under its public name; another instance that offers it too is a further route."""
    models: dict[str, Model] = {}
    for instance in found:
        for card in instance.offered:
            routes = models[card.public_name].routes if card.public_name in models else ()
            # Another credential of a provider shares its place in the order.
            places = list(dict.fromkeys([*(route.place for route in routes), (instance.name, card.name)]))
            order = places.index((instance.name, card.name))
            route = Route(instance.name, card, card.price, False, instance.credential, order, instance.weight)
            ordered = sorted((*routes, route), key=lambda route: route.order)
            models[card.public_name] = Model(card.public_name, tuple(ordered))
    for name, config in settings.models.items():
        models[name] = _configured(name, config, found, models.get(name))
    return models


def _configured(name: str, config: ModelConfig, found: Sequence[Instance], known: Model | None) -> Model:
    routes = [route for place, one in enumerate(config.routes) for route in _routes(name, one, place, found)]
    routes.sort(key=lambda route: route.order)
    if not routes and known is None:
        raise SettingsError(f"models.{name}: it needs at least one route")
    return Model(name, tuple(routes) or (known.routes if known else ()), config.defaults, config.response_format)


def _routes(name: str, config: RouteConfig, place: int, found: Sequence[Instance]) -> Iterator[Route]:
    """The route that the configuration asks for, once for each credential of its provider."""
    cards = {instance.name: instance.card for instance in found}
    if config.provider not in cards:
        known = ", ".join(cards) or "none"
        raise SettingsError(f"models.{name}.routes: provider {config.provider} is not available; there are {known}")
    card = cards[config.provider].model(config.model)
    if card is None:
        known = ", ".join(one.name for one in cards[config.provider].models) or "none"
        raise SettingsError(f"models.{name}.routes: {config.provider} has no model {config.model}; it has {known}")
    price = checked_price(config.price, card, f"models.{name}.routes, {config.provider}")
    its = [instance for instance in found if instance.name == config.provider]
    whole = sum(instance.weight for instance in its)
    for instance in its:
        yield Route(
            config.provider, card, price or card.price, price is not None, instance.credential,
            place if config.order is None else config.order, config.weight * instance.weight / whole,
        )  # fmt: skip
