"""Listing: what a server lacks is not offered, and a server that says nothing takes nothing away."""

from __future__ import annotations

import msgspec
import pytest

from gateway.core.admission import admit
from gateway.core.catalog import Catalog
from gateway.core.config import AliasConfig
from gateway.core.errors import GatewayError
from gateway.core.listing import keep_models, refresh
from providers.card import Card, ModelCard, Parameter
from providers.contract import ProviderError, Unavailable
from tests.core.vendors import MODEL, ScriptedProvider, card_of, generation, models_of


class Server(ScriptedProvider):
    """A vendor that says what it has."""

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        self.has: tuple[ModelCard, ...] | Exception = card.models

    async def models(self) -> tuple[ModelCard, ...]:
        if isinstance(self.has, Exception):
            raise self.has
        return self.has


def server(name: str = "vendor") -> Server:
    """A server with one model."""
    return Server(card_of(name, lists_models=True, model={"parameters": {"checkpoint": Parameter("string")}}))


def serving(*servers: Server) -> Catalog:
    """The catalog of these servers, which all serve one model."""
    return Catalog(models_of(servers), {}, {one.card.name: one for one in servers})


async def test_what_no_server_has_is_not_offered() -> None:
    """Neither listed nor found, until a server has it again."""
    only = server()
    catalog = serving(only)
    only.has = ()
    await refresh(catalog)
    assert (list(catalog.names()), catalog.find(MODEL)) == ([], None)
    with pytest.raises(GatewayError, match="does not exist here"):
        admit(catalog, generation())
    only.has = only.card.models
    await refresh(catalog)
    assert list(catalog.names()) == [MODEL]


async def test_an_alias_of_what_is_gone_is_not_offered() -> None:
    """An alias is named only as long as its model is there: whoever lists all names finds a model for each."""
    only = server()
    catalog = Catalog(models_of((only,)), {"dall-e-3": AliasConfig(model=MODEL)}, {only.card.name: only})
    assert list(catalog.names()) == [MODEL, "dall-e-3"]
    only.has = ()
    await refresh(catalog)
    assert list(catalog.names()) == []


async def test_another_server_goes_on_serving() -> None:
    """Of two servers with the model, the one that has lost it is no route any more."""
    first, second = server("first"), server("second")
    catalog = serving(first, second)
    first.has = ()
    await refresh(catalog)
    assert [route.provider for route in catalog.model(MODEL).routes] == ["second"]


async def test_values_are_those_that_the_server_has() -> None:
    """What is not installed is refused by name, with what is."""
    only = server()
    catalog = serving(only)
    checkpoint = {"checkpoint": Parameter("string", values=("a.safetensors",))}
    only.has = (msgspec.structs.replace(only.card.models[0], parameters=checkpoint),)
    await refresh(catalog)
    assert admit(catalog, generation(parameters={"checkpoint": "a.safetensors"})).routes
    with pytest.raises(GatewayError, match=r"a\.safetensors"):
        admit(catalog, generation(parameters={"checkpoint": "b.safetensors"}))


@pytest.mark.parametrize("trouble", [Unavailable("away"), TimeoutError(), RuntimeError("a slip")], ids=repr)
async def test_who_does_not_answer_keeps_what_it_had(trouble: Exception) -> None:
    """Trouble means that nothing is known, never that there is nothing."""
    only = server()
    catalog = serving(only)
    only.has = trouble
    await refresh(catalog)
    assert list(catalog.names()) == [MODEL]


async def test_they_are_asked_again_and_again() -> None:
    """Every few minutes, whatever the last answer was."""
    only = server()
    catalog, slept = serving(only), list[float]()
    only.has = Unavailable("away")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise ProviderError("enough")
        only.has = ()

    with pytest.raises(ProviderError, match="enough"):
        await keep_models(catalog, sleep)
    assert (slept, catalog.models) == ([300.0, 300.0], {})
