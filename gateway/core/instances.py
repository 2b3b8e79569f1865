"""Provider instances: a vendor's card with an address, credentials and models, from the environment and the file.

A vendor whose credentials are in the environment is an instance by itself. `[providers.<name>]` changes that one, or
with `vendor` makes a further one, which has only what it is given: no credential of the first is ever sent to it, and
it serves only the models that it names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.core.config import CredentialConfig, ProviderConfig
from gateway.core.settings import Settings, SettingsError
from providers.card import Card, CardError, ModelCard, Price, check_price
from providers.registry import Registry

# The name of the credential that needs none.
DEFAULT = "default"


class Instance(msgspec.Struct, frozen=True):
    """One provider that can be used, with one of its credentials.

    `offered` are the models that it serves without being asked for by a route.
    """

    name: str
    vendor: str
    card: Card
    base_url: str | None
    secrets: Mapping[str, str]
    offered: tuple[ModelCard, ...]
    credential: str = DEFAULT
    weight: int = 1

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Instance({self.name!r}, {self.vendor!r}, {self.base_url!r}, {self.credential!r})"


def find(settings: Settings, registry: Registry) -> list[Instance]:
    """All instances whose credentials are there; raises SettingsError for a configured one that is not in order."""
    for name, card in registry.absent.items():
        if _is_named(settings, name, card) and settings.providers.get(name, ProviderConfig()).enabled:
            raise _not_installed(name, card)
    configs = {name: ProviderConfig() for name in registry.cards} | settings.providers
    return [
        instance
        for name, config in configs.items()
        if config.enabled
        for instance in _instances(settings, registry, name, config)
    ]


def _instances(settings: Settings, registry: Registry, name: str, config: ProviderConfig) -> Iterator[Instance]:
    """The instance of that name, once for each of its credentials."""
    vendor = config.vendor or name
    if vendor in registry.absent:
        raise _not_installed(name, registry.absent[vendor])
    if vendor not in registry.cards:
        known = ", ".join(sorted(registry.cards))
        raise SettingsError(f"providers.{name}: there is no vendor {vendor}; there are {known}")
    card = registry.cards[vendor]
    _check(name, config, card)
    keyring = _keyring(settings, name, config, card, further=vendor != name)
    models = _models(name, config, card)
    named = {*config.models, *config.only_models}
    offered = [models[model] for model in models if vendor == name or model in named]
    # Errors of a further instance are not to name the vendor whose API it merely speaks.
    title = card.title if vendor == name else name
    card_here = msgspec.structs.replace(card, name=name, title=title, models=tuple(models.values()))
    base_url = _base_url(settings, config, card, further=vendor != name)
    for credential, (secrets, weight) in keyring.items():
        yield Instance(name, vendor, card_here, base_url, secrets, tuple(offered), credential, weight)


def _not_installed(name: str, card: Card) -> SettingsError:
    needed = card.needs.install if card.needs else ""
    return SettingsError(f"providers.{name}: what it needs is not installed; install {needed}, or enabled = false")


def _keyring(
    settings: Settings, name: str, config: ProviderConfig, card: Card, *, further: bool
) -> dict[str, tuple[Mapping[str, str], int]]:
    """Secrets and weight of each credential by its name; empty for a vendor that nobody has asked for."""
    found: dict[str, tuple[Mapping[str, str], int]] = {}
    variables = _variables(config, card, further=further)
    secrets = _secrets(settings, config, variables, card)
    if secrets is not None and (secrets or not card.credentials or _is_named(settings, name, card)):
        found[DEFAULT] = secrets, config.weight
    elif (
        config.credentials or config.credentials_env or (name in settings.providers and not config.further_credentials)
    ):
        raise SettingsError(
            f"providers.{name}: no credential given; it needs {_missing(variables)}, or enabled = false"
        )
    for one, given in config.further_credentials.items():
        variables = _variables(given, card, further=True)
        secrets = _secrets(settings, given, variables, card)
        if not secrets:
            where = f"providers.{name}.further_credentials.{one}"
            raise SettingsError(f"{where}: no credential given; it needs {_missing(variables)}")
        found[one] = secrets, given.weight
    return found


def _is_named(settings: Settings, name: str, card: Card) -> bool:
    """Whether somebody has asked for an instance that needs no credential: by its address, or in the file."""
    return name in settings.providers or bool(settings.environ.get(card.base_url_variable or ""))


def _missing(variables: Mapping[str, str]) -> str:
    return ", ".join(f"{secret} ({variable or 'no variable named'})" for secret, variable in variables.items())


def _check(name: str, config: ProviderConfig, card: Card) -> None:
    _check_secrets(f"providers.{name}", config, card)
    if config.further_credentials and not card.credentials:
        raise SettingsError(f"providers.{name}.further_credentials: {card.title} needs no credential")
    for one, given in config.further_credentials.items():
        if one == DEFAULT:
            raise SettingsError(f"providers.{name}.further_credentials: {DEFAULT} is the name of the first credential")
        _check_secrets(f"providers.{name}.further_credentials.{one}", given, card)
    if config.base_url is not None and not _is_address(config.base_url):
        raise SettingsError(f"providers.{name}.base_url must be an http:// or https:// address")


def _check_secrets(where: str, config: ProviderConfig | CredentialConfig, card: Card) -> None:
    for member in ("credentials", "credentials_env"):
        for secret in getattr(config, member):
            if secret not in card.credentials:
                known = ", ".join(card.credentials) or "none"
                raise SettingsError(f"{where}.{member}: {secret} is not known; there are: {known}")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _variables(config: ProviderConfig | CredentialConfig, card: Card, *, further: bool) -> dict[str, str]:
    """The variable of each of the card's credentials; empty where none is named for a further instance."""
    return {
        secret: config.credentials_env.get(secret, "" if further else usual)
        for secret, usual in card.credentials.items()
    }


def _secrets(
    settings: Settings, config: ProviderConfig | CredentialConfig, variables: Mapping[str, str], card: Card
) -> dict[str, str] | None:
    """The credentials by the card's names, or None when one is missing that it cannot do without."""
    found: dict[str, str] = {}
    for secret, variable in variables.items():
        value = config.credentials.get(secret) or settings.environ.get(variable)
        if value:
            found[secret] = value
        elif secret not in card.optional_credentials:
            return None
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


def model_card(provider: str, name: str, raw: dict[str, Any], like: ModelCard | None) -> ModelCard:
    """The card of a model given in heliograph.toml: the members given, over those of the vendor's card, if any."""
    base = msgspec.to_builtins(like) if like else {}
    try:
        card = msgspec.convert(base | raw | {"name": name}, ModelCard)
    except msgspec.ValidationError as error:
        raise SettingsError(f"providers.{provider}.models.{name}: {error}") from error
    checked_price(card.price, card, f"providers.{provider}.models.{name}")
    return card


def checked_price(price: Price | None, card: ModelCard, where: str) -> Price | None:
    """The price, if each row of it can fit the model; raises SettingsError for one that cannot."""
    try:
        if price is not None:
            check_price(price, card, where)
    except CardError as error:
        raise SettingsError(str(error)) from error
    return price
