"""The catalog: public models, the routes behind them, and what may be asked of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.core.errors import GatewayError, shown
from gateway.core.settings import AliasConfig, ModelConfig, ProviderConfig, Settings, SettingsError, model_card
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
    cards = _instances(settings, registry)
    providers = {
        name: registry.build(
            vendor_of(settings, name),
            card,
            base_url=_base_url(settings, name, card),
            secrets=_secrets(settings, name, card) or {},
        )
        for name, card in cards.items()
    }
    models = _models(settings, cards)
    aliases = {
        name: alias if isinstance(alias, AliasConfig) else AliasConfig(model=alias)
        for name, alias in settings.aliases.items()
    }
    for name, alias in aliases.items():
        if alias.model not in models:
            raise SettingsError(f"aliases.{name}: there is no model {alias.model}; there are {', '.join(models)}")
    return Catalog(models, aliases, providers)


def _instances(settings: Settings, registry: Registry) -> dict[str, Card]:
    """The cards of all provider instances that can be used, by the instance's name."""
    configs = {name: ProviderConfig() for name in registry.cards} | settings.providers
    cards: dict[str, Card] = {}
    for name, config in configs.items():
        vendor = vendor_of(settings, name)
        if vendor not in registry.cards:
            known = ", ".join(sorted(registry.cards))
            raise SettingsError(f"providers.{name}: there is no vendor {vendor}; there are {known}")
        card = _with_models(name, registry.cards[vendor], config)
        if config.enabled and _usable(settings, name, card):
            cards[name] = card
    return cards


def vendor_of(settings: Settings, name: str) -> str:
    """The vendor of a provider instance: what its configuration says, else the one of the same name."""
    config = settings.providers.get(name)
    return (config.vendor if config else None) or name


def _usable(settings: Settings, name: str, card: Card) -> bool:
    if _secrets(settings, name, card) is not None:
        return True
    if name not in settings.providers:
        return False
    missing = ", ".join(f"{secret} ({variable})" for secret, variable in card.credentials.items())
    raise SettingsError(f"providers.{name}: no credential given; it needs {missing}, or enabled = false")


def _secrets(settings: Settings, name: str, card: Card) -> dict[str, str] | None:
    """The credentials of an instance by the card's names, or None when one is missing."""
    config = settings.providers.get(name, ProviderConfig())
    found: dict[str, str] = {}
    for secret, variable in card.credentials.items():
        value = config.credentials.get(secret) or settings.environ.get(config.credentials_env.get(secret, variable))
        if not value:
            return None
        found[secret] = value
    return found


def _base_url(settings: Settings, name: str, card: Card) -> str | None:
    config = settings.providers.get(name, ProviderConfig())
    own = settings.environ.get(card.base_url_variable) if card.base_url_variable and not config.vendor else None
    return config.base_url or own or card.base_url


def _with_models(name: str, card: Card, config: ProviderConfig) -> Card:
    models = {model.name: model for model in card.models}
    for model, raw in config.models.items():
        models[model] = model_card(name, model, raw, models.get(model))
    unknown = [model for model in config.only_models if model not in models]
    if unknown:
        raise SettingsError(f"providers.{name}.only_models: {unknown[0]} is no model of it")
    if config.only_models:
        models = {model: models[model] for model in config.only_models}
    return msgspec.structs.replace(card, name=name, models=tuple(models.values()))


def _models(settings: Settings, cards: Mapping[str, Card]) -> dict[str, Model]:
    """Each model of each card under its public name, a further provider of the same name as a further route."""
    models: dict[str, Model] = {}
    for provider, card in cards.items():
        for model in card.models:
            route = Route(provider, model, model.price)
            routes = models[model.public_name].routes if model.public_name in models else ()
            models[model.public_name] = Model(model.public_name, (*routes, route))
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
