"""Finds the vendors: those built in, those of outside packages, and modules that a setting names.

A vendor is a module `x.py` in which one Provider subclass is defined, and its card `x.toml` beside it. Cards are
read at once, modules are imported only when a provider is built. A vendor whose card says that it needs what is not
installed is left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import httpx

from providers import vendors
from providers.card import Card, load
from providers.contract import Provider
from providers.http import Http

GROUP = "heliograph.providers"
"""The entry-point group of outside packages; an entry point names a vendor's module."""


class RegistryError(ValueError):
    """A vendor is not as a vendor must be; the message names the module."""


class Registry:
    """All vendors that can be used, by name; in `absent` those that need what is not installed."""

    def __init__(
        self, cards: Mapping[str, Card], modules: Mapping[str, str], absent: Mapping[str, Card] = MappingProxyType({})
    ) -> None:
        self.cards: Mapping[str, Card] = MappingProxyType(dict(cards))
        self.absent: Mapping[str, Card] = MappingProxyType(dict(absent))
        self._modules = dict(modules)

    @classmethod
    def load(cls, modules: Sequence[str] = ()) -> Registry:
        """Reads the card of every vendor; raises RegistryError or CardError for one that is not in order."""
        found: dict[str, Card] = {}
        homes: dict[str, str] = {}
        outside = (point.module for point in entry_points(group=GROUP))
        for module in dict.fromkeys((*_built_in(), *outside, *modules)):
            card = _card(module)
            if card.name in found:
                raise RegistryError(f"{module}: {homes[card.name]} is a vendor named {card.name} already")
            found[card.name], homes[card.name] = card, module
        absent = {name: card for name, card in found.items() if _lacks(card)}
        return cls({name: card for name, card in found.items() if name not in absent}, homes, absent)

    def build(
        self,
        name: str,
        card: Card,
        *,
        base_url: str | None = None,
        secrets: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> Provider:
        """Makes a provider of the vendor `name` from its card, or from a copy that a setting has changed.

        The first time it imports the vendor's module, and its SDK with it, which may take a second or two.
        """
        if name in self.absent or name not in self._modules:
            raise RegistryError(f"there is no vendor {name}; there are {', '.join(sorted(self._modules))}")
        provider = _provider(self._modules[name])
        return provider(card, Http(card, base_url=base_url, secrets=secrets, transport=transport))


def _built_in() -> Iterator[str]:
    files = (file for folder in vendors.__path__ for file in Path(folder).iterdir())
    stems = {file.stem for file in files if file.suffix in (".py", ".toml") and not file.stem.startswith("_")}
    return (f"{vendors.__name__}.{stem}" for stem in sorted(stems))


def _card(module: str) -> Card:
    name = module.rpartition(".")[2]
    try:
        spec = find_spec(module)
    except ModuleNotFoundError as error:
        raise RegistryError(f"{module}: there is no such module") from error
    if spec is None or spec.origin is None:
        raise RegistryError(f"{module}: there is no such module")
    path = Path(spec.origin).with_suffix(".toml")
    if not path.is_file():
        raise RegistryError(f"{module}: the card {path.name} is missing beside it")
    card = load(path)
    if card.name != name:
        raise RegistryError(f"{module}: its card is named {card.name}, not {name}")
    return card


def _lacks(card: Card) -> bool:
    """Whether a module is missing that the vendor needs. A mere folder of that name is not the module."""
    specs = [find_spec(module) for module in (card.needs.modules if card.needs else ())]
    return any(spec is None or spec.origin is None for spec in specs)


def _provider(module: str) -> type[Provider]:
    """The one Provider subclass that the module defines itself."""
    found = [
        value
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type) and issubclass(value, Provider) and value.__module__ == module
    ]
    if len(found) != 1:
        raise RegistryError(f"{module}: it defines {len(found)} Provider subclasses instead of one")
    return found[0]
