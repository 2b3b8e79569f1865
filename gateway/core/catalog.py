"""The catalog: public models, the routes behind them, and what may be asked of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core import instances
from gateway.core.errors import GatewayError, shown
from gateway.core.instances import Instance
from gateway.core.settings import AliasConfig, ModelConfig, Settings, SettingsError
from providers.card import Card, ModelCard, Price
from providers.contract import Operation, Provider
from providers.registry import Registry


class Route(msgspec.Struct, frozen=True):
    """One way to serve a model: a provider instance by name, that vendor's card of the model, and the price there."""

    provider: str
    card: ModelCard
    price: Price | None

    @property
    def place(self) -> tuple[str, str]:
        """Provider and vendor's name of the model, which an attempt on this route is recorded with."""
        return self.provider, self.card.name


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


class Catalog:
    """All models that this installation serves, and the providers behind them."""

    def __init__(
        self, models: Mapping[str, Model], aliases: Mapping[str, AliasConfig], providers: Mapping[str, Provider]
    ) -> None:
        self.models = models
        self.aliases = aliases
        self.providers = providers

    def model(self, name: str) -> Model:
        """The model of that name or alias; raises `model_not_found`."""
        found = self.find(name)
        if found is None:
            raise GatewayError("model_not_found", f"The model {shown(name)} does not exist here.", param="model")
        return found

    def find(self, name: str) -> Model | None:
        """The model of that name or alias, or None."""
        alias = self.aliases.get(name)
        return self.models.get(alias.model if alias else name)

    def names(self) -> Iterator[str]:
        """Every name that may be asked for: models, then aliases."""
        yield from self.models
        yield from self.aliases

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
        one.name: registry.build(one.vendor, one.card, base_url=one.base_url, secrets=one.secrets) for one in found
    }
    models = _models(settings, found)
    return Catalog(models, _aliases(settings, models), providers)


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
            route = Route(instance.name, card, card.price)
            routes = models[card.public_name].routes if card.public_name in models else ()
            models[card.public_name] = Model(card.public_name, (*routes, route))
    cards = {instance.name: instance.card for instance in found}
    for name, config in settings.models.items():
        models[name] = _configured(name, config, cards, models.get(name))
    return models


def _configured(name: str, config: ModelConfig, cards: Mapping[str, Card], known: Model | None) -> Model:
    routes = [_route(name, one.provider, one.model, one.price, cards) for one in config.routes]
    if not routes and known is None:
        raise SettingsError(f"models.{name}: it needs at least one route")
    return Model(name, tuple(routes) or (known.routes if known else ()), config.defaults, config.response_format)


def _route(name: str, provider: str, model: str, price: Price | None, cards: Mapping[str, Card]) -> Route:
    if provider not in cards:
        raise SettingsError(
            f"models.{name}.routes: provider {provider} is not available; there are {', '.join(cards) or 'none'}"
        )
    found = cards[provider].model(model)
    if found is None:
        known = ", ".join(one.name for one in cards[provider].models) or "none"
        raise SettingsError(f"models.{name}.routes: {provider} has no model {model}; it has {known}")
    return Route(provider, found, price or found.price)
