"""The tables of heliograph.toml: providers, models and aliases, as an operator writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from providers.card import Price

Weight = Annotated[int, Meta(ge=1, le=1000)]
ProviderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
CredentialName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class CredentialConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.<name>.further_credentials.<name>]`: another credential of the same provider, which shares its work.

    Of routes over several credentials each gets a share by `weight`.
    """

    credentials: dict[str, str] = {}
    credentials_env: dict[str, str] = {}
    weight: Weight = 1

    def __repr__(self) -> str:
        """The configuration without the secrets in it."""
        return f"CredentialConfig(weight={self.weight!r})"


class ProviderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[providers.<name>]`: a further instance of a vendor, or a change to the one that bears the vendor's name.

    `credentials` gives secrets by the card's names for them; `credentials_env` names environment variables instead.
    `models` adds models, or replaces the card's, by the vendor's own names.
    """

    vendor: str | None = None
    enabled: bool = True
    base_url: str | None = None
    credentials: dict[str, str] = {}
    credentials_env: dict[str, str] = {}
    models: dict[str, dict[str, Any]] = {}
    only_models: tuple[str, ...] = ()
    further_credentials: dict[CredentialName, CredentialConfig] = {}
    weight: Weight = 1

    def __repr__(self) -> str:
        """The configuration without the secrets in it."""
        return f"ProviderConfig(vendor={self.vendor!r}, enabled={self.enabled!r}, base_url={self.base_url!r})"


class RouteConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to serve a model: which provider, and its own name for the model.

    Routes are tried by `order`, which is the place in the list unless it is given; those of the same order share the
    work by `weight`.
    """

    provider: str
    model: str
    price: Price | None = None
    order: Annotated[int, Meta(ge=0, le=1000)] | None = None
    weight: Weight = 1


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.<name>]`: a public model with its routes in order, and members filled in where a request has none."""

    routes: tuple[RouteConfig, ...] = ()
    defaults: dict[str, Any] = {}
    response_format: Literal["url", "b64_json"] | None = None


class AliasConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[aliases.<name>]`: another name for a model; `values` maps members' legacy values to the model's own.

    A legacy value mapped to "" is left out.
    """

    model: str
    values: dict[str, dict[str, str]] = {}
