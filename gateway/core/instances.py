"""Provider instances: a vendor's card with an address, credentials and models, from the environment and the file.

A vendor whose credentials are in the environment is an instance by itself. `[providers.<name>]` changes that one, or
with `vendor` makes a further one, which has only what it is given: no credential of the first is ever sent to it, and
it serves only the models that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from gateway.core.settings import ProviderConfig, Settings, SettingsError, model_card
from providers.card import Card, ModelCard
from providers.registry import Registry


class Instance(msgspec.Struct, frozen=True):
    """One provider that can be used. `offered` are the models that it serves without being asked for by a route."""

    name: str
    vendor: str
    card: Card
    base_url: str | None
    secrets: Mapping[str, str]
    offered: tuple[ModelCard, ...]

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Instance({self.name!r}, {self.vendor!r}, {self.base_url!r})"


def find(settings: Settings, registry: Registry) -> list[Instance]:
    """All instances whose credentials are there; raises SettingsError for a configured one that is not in order."""
    configs = {name: ProviderConfig() for name in registry.cards} | settings.providers
    made = (_instance(settings, registry, name, config) for name, config in configs.items() if config.enabled)
    return [instance for instance in made if instance is not None]


def _instance(settings: Settings, registry: Registry, name: str, config: ProviderConfig) -> Instance | None:
    vendor = config.vendor or name
    if vendor not in registry.cards:
        known = ", ".join(sorted(registry.cards))
        raise SettingsError(f"providers.{name}: there is no vendor {vendor}; there are {known}")
    card = registry.cards[vendor]
    _check(name, config, card)
    variables = _variables(config, card, further=vendor != name)
    secrets = _secrets(settings, config, variables)
    if secrets is None:
        if name not in settings.providers:
            return None
        missing = ", ".join(f"{secret} ({variable or 'no variable named'})" for secret, variable in variables.items())
        raise SettingsError(f"providers.{name}: no credential given; it needs {missing}, or enabled = false")
    models = _models(name, config, card)
    named = {*config.models, *config.only_models}
    offered = [models[model] for model in models if vendor == name or model in named]
    return Instance(
        name,
        vendor,
        msgspec.structs.replace(card, name=name, models=tuple(models.values())),
        _base_url(settings, config, card, further=vendor != name),
        secrets,
        tuple(offered),
    )


def _check(name: str, config: ProviderConfig, card: Card) -> None:
    for member in ("credentials", "credentials_env"):
        for secret in getattr(config, member):
            if secret not in card.credentials:
                known = ", ".join(card.credentials) or "none"
                raise SettingsError(f"providers.{name}.{member}: {secret} is not known; there are: {known}")
    if config.base_url is not None and not _is_address(config.base_url):
        raise SettingsError(f"providers.{name}.base_url must be an http:// or https:// address")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _variables(config: ProviderConfig, card: Card, *, further: bool) -> dict[str, str]:
    """The variable of each of the card's credentials; empty where none is named for a further instance."""
    return {
        secret: config.credentials_env.get(secret, "" if further else usual)
        for secret, usual in card.credentials.items()
    }


def _secrets(settings: Settings, config: ProviderConfig, variables: Mapping[str, str]) -> dict[str, str] | None:
    """The credentials by the card's names, or None when one is missing."""
    found: dict[str, str] = {}
    for secret, variable in variables.items():
        value = config.credentials.get(secret) or settings.environ.get(variable)
        if not value:
            return None
        found[secret] = value
    return found


def _base_url(settings: Settings, config: ProviderConfig, card: Card, *, further: bool) -> str | None:
    usual = settings.environ.get(card.base_url_variable) if card.base_url_variable and not further else None
    return config.base_url or usual or card.base_url


def _models(name: str, config: ProviderConfig, card: Card) -> dict[str, ModelCard]:
    models = {model.name: model for model in card.models}
    for model, raw in config.models.items():
        if model not in models and not card.accepts_any_model:
            known = ", ".join(models) or "none"
            raise SettingsError(f"providers.{name}.models: {model} is no model of this vendor; there are {known}")
        models[model] = model_card(name, model, raw, models.get(model))
    unknown = [model for model in config.only_models if model not in models]
    if unknown:
        raise SettingsError(f"providers.{name}.only_models: {unknown[0]} is no model of it")
    return {model: models[model] for model in config.only_models} if config.only_models else models
