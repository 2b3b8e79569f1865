"""The catalog: public models, their routes and other names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.core.catalog import Catalog, Model, Route
from gateway.core.errors import GatewayError
from gateway.core.settings import SettingsError
from providers.contract import Kind, Operation
from tests.core.vendors import card_of, configured, price, vendor

KEYS: dict[str, str] = {"api_key": "ONE_KEY"}


def routes(catalog: Catalog, name: str) -> list[tuple[str, str]]:
    """Provider and vendor's model of each route."""
    return [route.place for route in catalog.model(name).routes]


def test_public_models_are_made_of_routes(tmp_path: Path) -> None:
    """A model of the file has its routes in order, a price of its own where one is given, defaults and a format."""
    text = """
        [models.best]
        routes = [
            { provider = "two", model = "two-model" },
            { provider = "one", model = "one-model", price = { as_of = 2030-01-01, rows = [{ usd = "0.5" }] } },
        ]
        defaults = { size = "64x64" }
        response_format = "b64_json"
        [models.one-picture]
        response_format = "url"
    """
    catalog = configured(tmp_path, vendor("one"), vendor("two"), text=text)
    best = catalog.model("best")
    assert routes(catalog, "best") == [("two", "two-model"), ("one", "one-model")]
    assert [route.price for route in best.routes] == [price("0.04"), price("0.5")]
    assert (best.defaults, best.response_format) == ({"size": "64x64"}, "b64_json")
    assert (catalog.model("one-picture").response_format, len(catalog.model("one-picture").routes)) == ("url", 1)


@pytest.mark.parametrize(("word", "names"), [("refuse", ["dear", "old"]), ("allow", ["free", "dear", "old", "new"])])
def test_what_is_refused_without_a_price_is_not_offered(tmp_path: Path, word: str, names: list[str]) -> None:
    """A model without a price is neither listed, nor under an alias, nor taken for one that nobody named."""
    cards = card_of("free", model={"price": None, "public": "free"}), card_of("dear", model={"public": "dear"})
    text = f'unpriced_models = "{word}"\n[aliases]\nold = "dear"\nnew = "free"'
    catalog = configured(tmp_path, *cards, text=text)
    assert list(catalog.names()) == names
    assert catalog.refused() == ([] if "free" in names else ["free"])
    assert catalog.first_for(Kind.IMAGE, Operation.GENERATION) == names[0]
    assert catalog.model("free").name == "free"


def test_routes_have_an_order_and_a_weight(tmp_path: Path) -> None:
    """Routes stand by their order; without one, their place is it. Those of one order keep the order of the file."""
    text = """
        [models.best]
        routes = [
            { provider = "one", model = "one-model" },
            { provider = "two", model = "two-model", order = 3, weight = 3 },
            { provider = "three", model = "three-model", order = 0 },
            { provider = "four", model = "four-model" },
        ]
    """
    catalog = configured(tmp_path, *map(vendor, ("one", "two", "three", "four")), text=text)
    found = [(route.provider, route.order, route.weight) for route in catalog.model("best").routes]
    assert found == [("one", 0, 1), ("three", 0, 1), ("two", 3, 3), ("four", 3, 1)]


def test_credentials_divide_what_their_route_weighs(tmp_path: Path) -> None:
    """A route becomes one for each credential, at the same place; one more of them takes nothing from other routes."""
    text = """
        [providers.one.further_credentials.eu]
        credentials = { api_key = "k-2" }
        weight = 3
        [models.best]
        routes = [
            { provider = "one", model = "one-model", order = 1, weight = 2 },
            { provider = "two", model = "two-model", order = 1, weight = 2 },
        ]
    """
    catalog = configured(tmp_path, vendor("one", keys=KEYS), vendor("two"), text=text, ONE_KEY="k-1")
    found = {(route.provider, route.credential): route.weight for route in catalog.model("best").routes}
    assert found == {("one", "default"): 0.5, ("one", "eu"): 1.5, ("two", "default"): 2.0}


def test_models_of_one_name_keep_their_order(tmp_path: Path) -> None:
    """Two models of a vendor under one public name are tried one after the other, each with all credentials."""
    card = vendor("one", keys=KEYS)
    first = card.models[0]
    card = msgspec.structs.replace(card, models=(first, msgspec.structs.replace(first, name="second")))
    text = '[providers.one.further_credentials.eu]\ncredentials = { api_key = "k-2" }'
    catalog = configured(tmp_path, card, text=text, ONE_KEY="k-1")
    found = [(route.card.name, route.credential, route.order) for route in catalog.model("one-picture").routes]
    assert found == [("one-model", "default", 0), ("one-model", "eu", 0), ("second", "default", 1), ("second", "eu", 1)]


def test_vendors_of_one_public_name_are_routes_of_one_model(tmp_path: Path) -> None:
    """Two vendors that serve a model under the same public name are two ways to it."""
    catalog = configured(tmp_path, vendor("one", public="flux"), vendor("two", public="flux"))
    assert routes(catalog, "flux") == [("one", "one-model"), ("two", "two-model")]


def test_an_alias_is_another_name(tmp_path: Path) -> None:
    """Aliases are found like models, in their short and their long form."""
    text = '[aliases]\nold = "one-picture"\nolder = { model = "one-picture", values = { quality = { hd = "high" } } }'
    catalog = configured(tmp_path, vendor("one"), text=text)
    assert catalog.model("old") is catalog.model("older") is catalog.model("one-picture")
    assert catalog.aliases["older"].values == {"quality": {"hd": "high"}}
    assert list(catalog.names()) == ["one-picture", "old", "older"]


def test_an_unknown_model_is_not_found(tmp_path: Path) -> None:
    """What is neither model nor alias is said not to exist, by the parameter that asked for it."""
    catalog = configured(tmp_path, vendor("one"))
    for name in ("", "gpt-9", "one-model", "x" * 1000):
        with pytest.raises(GatewayError) as caught:
            catalog.model(name)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert len(caught.value.message) < 150
        assert catalog.find(name) is None


async def test_closing_closes_every_provider(tmp_path: Path) -> None:
    """The connections of all providers are let go; those that were never used need nothing."""
    catalog = configured(tmp_path, vendor("one"), vendor("two"))
    client = catalog.providers["one"].http.client
    await catalog.close()
    assert client.is_closed


WRONG = [
    ('[models.best]\nroutes = [{ provider = "three", model = "x" }]', "models.best.routes: provider three .* are one"),
    ('[models.best]\nroutes = [{ provider = "two", model = "two-model" }]', "models.best.routes: provider two is not"),
    ('[models.best]\nroutes = [{ provider = "one", model = "x" }]', "models.best.routes: one has no model x; it has"),
    ('[models.best]\nresponse_format = "url"', "models.best: it needs at least one route"),
    ('[aliases]\nold = "one-pictur"', "aliases.old: there is no model one-pictur; there are one-picture"),
    ('[aliases]\nold = "older"\nolder = "one-picture"', "aliases.old: there is no model older"),
    ('[aliases]\none-picture = "one-picture"', "aliases.one-picture: there is a model of that name already"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text.replace("\n", " ")[:60] for text, _ in WRONG])
def test_what_the_file_gets_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """A model, route or alias that cannot be is refused at the start, by its place in the file."""
    with pytest.raises(SettingsError, match=said):
        configured(tmp_path, vendor("one"), vendor("two", keys={"api_key": "TWO_KEY"}), text=text)


def test_a_model_does_what_any_of_its_routes_does() -> None:
    """The operations of a model are those of all its routes, each once, in order."""
    one, two = vendor("one").models[0], vendor("two").models[0]
    two = msgspec.structs.replace(two, operations=(Operation.EDIT, Operation.GENERATION))
    model = Model("both", (Route("one", one, None), Route("two", two, None)))
    assert model.operations == (Operation.GENERATION, Operation.EDIT)
