"""Provider instances: what is served with which credentials, and that each has only its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.admission import open_catalog
from gateway.core.instances import find
from gateway.core.settings import Settings, SettingsError, load
from providers.card import Needs
from providers.contract import Operation
from providers.registry import Registry
from tests.core.vendors import configured, vendor

KEYS: dict[str, str] = {"api_key": "ONE_KEY"}


def test_a_credential_in_the_environment_is_enough(tmp_path: Path) -> None:
    """Without any configuration, exactly those vendors serve whose credentials are there, or who need none."""
    one, two, free = vendor("one", keys=KEYS), vendor("two", keys={"api_key": "TWO_KEY"}), vendor("free")
    assert set(configured(tmp_path, one, two, free).models) == {"free-picture"}
    catalog = configured(tmp_path, one, two, free, ONE_KEY="k-1")
    assert set(catalog.models) == {"one-picture", "free-picture"}
    assert catalog.providers["one"].http.secrets == {"api_key": "k-1"}
    assert set(configured(tmp_path, one, two, free, ONE_KEY="k", TWO_KEY="k").models) == {
        "one-picture",
        "two-picture",
        "free-picture",
    }


def test_an_empty_credential_is_none(tmp_path: Path) -> None:
    """A variable that is there but empty, and half of two secrets, serve nothing."""
    both = vendor("both", keys={"key": "A_KEY", "secret": "A_SECRET"})
    for environ in ({"A_KEY": "", "A_SECRET": "s"}, {"A_KEY": "k"}, {}):
        assert configured(tmp_path, both, **environ).models == {}
    assert set(configured(tmp_path, both, A_KEY="k", A_SECRET="s").models) == {"both-picture"}


def test_a_vendor_that_needs_no_credential_serves_when_it_is_named(tmp_path: Path) -> None:
    """An address in the environment is enough, as a table in the file is; without either, it is not there."""
    own = vendor("own", keys={"api_key": "OWN_KEY"}, optional_credentials=("api_key",), base_url_variable="OWN_URL")
    assert configured(tmp_path, own).models == {}
    assert configured(tmp_path, own, OWN_URL="http://own.test").providers["own"].http.secrets == {}
    assert set(configured(tmp_path, own, OWN_KEY="k").models) == {"own-picture"}
    text = '[providers.shed]\nvendor = "own"\nbase_url = "http://shed.test"\nonly_models = ["own-model"]'
    assert set(configured(tmp_path, own, text=text).providers) == {"shed"}


def test_the_built_in_vendors_make_a_catalog() -> None:
    """With an empty environment there is something to try; with a vendor's usual variable, its models too."""
    plain = open_catalog(Settings())
    assert plain.models
    assert all(not provider.card.credentials for provider in plain.providers.values())
    keys = {variable: "k" for card in Registry.load().cards.values() for variable in card.credentials.values()}
    full = open_catalog(load(keys, Path("/dev/null")))
    assert set(full.providers) == set(Registry.load().cards)
    assert set(plain.models) < set(full.models)


def test_a_vendor_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    """It is missing in silence until it is named: in the file, as another's vendor, or by its address."""
    lame = vendor("lame", base_url_variable="LAME_URL", needs=Needs(("no_such_module",), "acme[all]"))
    registry = Registry({"one": vendor("one")}, {"one": "tests.scripted.scripted"}, {"lame": lame})
    file = tmp_path / "heliograph.toml"

    def names(text: str, **environ: str) -> set[str]:
        file.write_text(text)
        return {one.name for one in find(load(environ, file), registry)}

    assert names("") == names("[providers.lame]\nenabled = false", LAME_URL="http://lame.test") == {"one"}
    for text, name in (("[providers.lame]", "lame"), ('[providers.two]\nvendor = "lame"', "two")):
        with pytest.raises(SettingsError, match=rf"providers\.{name}: .* not installed; install acme\[all\]"):
            names(text)
    with pytest.raises(SettingsError, match=r"providers\.lame: .* install acme\[all\]"):
        names("", LAME_URL="http://lame.test")


EU = '[providers.one.further_credentials.eu]\ncredentials_env = { api_key = "EU_KEY" }'


def test_further_credentials_are_enough(tmp_path: Path) -> None:
    """A provider without a plain credential serves with its further ones alone."""
    catalog = configured(tmp_path, vendor("one", keys=KEYS), text=EU, EU_KEY="k-2")
    assert catalog.provider("one", "default") is None
    assert [route.credential for route in catalog.model("one-picture").routes] == ["eu"]


def test_a_further_credential_never_takes_a_secret_from_another(tmp_path: Path) -> None:
    """Half of two secrets is not made whole with the plain credential's, and nothing of either is repeated."""
    both = vendor("both", keys={"key": "A_KEY", "secret": "A_SECRET"})
    text = '[providers.both.further_credentials.eu]\ncredentials = { key = "sk-half" }'
    with pytest.raises(SettingsError) as caught:
        configured(tmp_path, both, text=text, A_KEY="sk-whole", A_SECRET="sk-other")
    assert "providers.both.further_credentials.eu: no credential given; it needs key" in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_no_credential_is_shown(tmp_path: Path) -> None:
    """Neither instances nor their configuration say the secrets of any credential."""
    file = tmp_path / "heliograph.toml"
    file.write_text('[providers.one.further_credentials.eu]\ncredentials = { api_key = "sk-very-secret" }')
    settings = load({"ONE_KEY": "sk-very-secret"}, file)
    found = find(settings, Registry({"one": vendor("one", keys=KEYS)}, {"one": "tests.scripted.scripted"}))
    assert [one.credential for one in found] == ["default", "eu"]
    assert "sk-very-secret" not in f"{found} {settings.providers} {settings}"


SPARE = """
    [providers.spare]
    vendor = "one"
    base_url = "https://spare.test/v1"
    credentials_env = { api_key = "SPARE_KEY" }
"""


def test_a_further_instance_has_only_what_it_is_given(tmp_path: Path) -> None:
    """A named instance has an address and a credential of its own, and takes over no model unasked."""
    catalog = configured(tmp_path, vendor("one", keys=KEYS), text=SPARE, ONE_KEY="k-1", SPARE_KEY="k-2")
    spare = catalog.providers["spare"]
    assert (spare.card.name, spare.http.base_url) == ("spare", "https://spare.test/v1")
    # Errors name it, and not the vendor whose API it speaks.
    assert spare.card.title == spare.http.card.title == "spare"
    assert (spare.http.secrets, catalog.providers["one"].http.secrets) == ({"api_key": "k-2"}, {"api_key": "k-1"})
    assert [route.place for route in catalog.model("one-picture").routes] == [("one", "one-model")]


def test_a_further_instance_serves_what_it_names(tmp_path: Path) -> None:
    """A model that it names, or that a route asks of it, is served by it, after the vendor's own instance."""
    card = vendor("one", keys=KEYS)
    for text in ('only_models = ["one-model"]', "[providers.spare.models.one-model]\nmax_n = 2"):
        catalog = configured(tmp_path, card, text=SPARE + text, ONE_KEY="k-1", SPARE_KEY="k-2")
        assert [route.provider for route in catalog.model("one-picture").routes] == ["one", "spare"]
    text = '[models.best]\nroutes = [{ provider = "spare", model = "one-model" }]'
    catalog = configured(tmp_path, card, text=SPARE + text, SPARE_KEY="k-2")
    assert {name: [route.provider for route in one.routes] for name, one in catalog.models.items()} == {
        "best": ["spare"]
    }


def test_a_further_instance_never_gets_the_vendors_credential(tmp_path: Path) -> None:
    """What a key of one upstream is for is not sent to another: without a credential of its own it does not start."""
    text = '[providers.spare]\nvendor = "one"\nbase_url = "https://spare.test"'
    with pytest.raises(SettingsError) as caught:
        configured(tmp_path, vendor("one", keys=KEYS), text=text, ONE_KEY="k-1")
    assert "providers.spare: no credential given; it needs api_key" in str(caught.value)
    assert "ONE_KEY" not in str(caught.value)


def test_a_credential_in_the_file_wins(tmp_path: Path) -> None:
    """What the file says of the vendor that bears the name changes that one."""
    text = '[providers.one]\ncredentials = { api_key = "from-the-file" }\nbase_url = "https://proxy.test"'
    catalog = configured(tmp_path, vendor("one", keys=KEYS), text=text, ONE_KEY="from-the-environment")
    assert catalog.providers["one"].http.secrets == {"api_key": "from-the-file"}
    assert catalog.providers["one"].http.base_url == "https://proxy.test"


def test_the_vendors_own_address_variable_is_for_its_first_instance(tmp_path: Path) -> None:
    """The variable that a vendor's SDK knows moves the vendor itself, never another instance of it."""
    card = vendor("one", base_url="https://api.test", base_url_variable="ONE_URL")
    catalog = configured(tmp_path, card, text='[providers.spare]\nvendor = "one"', ONE_URL="https://moved.test")
    assert catalog.providers["one"].http.base_url == "https://moved.test"
    assert catalog.providers["spare"].http.base_url == "https://api.test"


def test_a_vendor_can_be_switched_off(tmp_path: Path) -> None:
    """`enabled = false` needs no credential and serves nothing."""
    text = "[providers.one]\nenabled = false\n[providers.free]\nenabled = false"
    catalog = configured(tmp_path, vendor("one", keys=KEYS), vendor("free"), text=text, ONE_KEY="k")
    assert (catalog.models, catalog.providers) == ({}, {})


def test_models_are_added_changed_and_chosen(tmp_path: Path) -> None:
    """The file adds models that the card does not know, changes members of those it does, and can leave some out."""
    text = """
        [providers.one.models.newest]
        kind = "image"
        operations = ["generation", "edit"]
        sizes = ["2048x2048"]
        price = { as_of = 2030-01-01, rows = [{ usd = "0.07" }] }
        [providers.one.models.one-model]
        max_n = 9
    """
    catalog = configured(tmp_path, vendor("one", accepts_any_model=True), text=text)
    newest, known = catalog.model("newest").routes[0], catalog.model("one-picture").routes[0]
    assert (newest.card.sizes, newest.price and newest.price.rows[0].usd) == (("2048x2048",), "0.07")
    assert catalog.model("newest").operations == (Operation.GENERATION, Operation.EDIT)
    assert (known.card.max_n, known.card.sizes) == (9, ("64x64", "128x64"))
    text += '[providers.one]\nonly_models = ["newest"]'
    chosen = configured(tmp_path, vendor("one", accepts_any_model=True), text=text)
    assert set(chosen.models) == {"newest"}


WRONG = [
    ("[providers.onne]", "providers.onne: there is no vendor onne; there are one, two"),
    ('[providers.spare]\nvendor = "onne"', "providers.spare: there is no vendor onne; there are one, two"),
    ('[providers.two]\nbase_url = "https://x.test"', r"providers.two: no credential .* api_key \(TWO_KEY\)"),
    ('[providers.two]\ncredentials_env = { api_key = "MY_KEY" }', r"providers.two: no credential.* api_key \(MY_KEY\)"),
    ('[providers.two]\ncredentials = { apikey = "k" }', "providers.two.credentials: apikey is .* there are: api_key"),
    ('[providers.two]\ncredentials_env = { token = "K" }', "providers.two.credentials_env: token .* are: api_key"),
    ('[providers.one]\ncredentials = { key = "k" }', "providers.one.credentials: key is not known; there are: none"),
    ("[providers.two.further_credentials.eu]", "providers.two.further_credentials.eu: no credential given; it needs"),
    ("[providers.two.further_credentials.default]", "providers.two.further_credentials: default is the name"),
    ('[providers.two.further_credentials.eu]\ncredentials = { token = "k" }', "eu.credentials: token .* are: api_key"),
    ("[providers.two.further_credentials.eu]\nweight = 0", "providers.two.further_credentials.*weight"),
    ("[providers.one.further_credentials.eu]", "providers.one.further_credentials: One needs no credential"),
    ('[providers.two]\ncredentials_env = { api_key = "TYPO" }\n[providers.two.further_credentials.eu]\n'
     'credentials = { api_key = "k" }', r"providers.two: no credential.* api_key \(TYPO\)"),
    ('[providers.one]\nbase_url = "one.test"', "providers.one.base_url must be an http"),
    ('[providers.one]\nbase_url = "http://[::1"', "providers.one.base_url must be an http"),
    ('[providers.one]\nbase_url = "http://"', "providers.one.base_url must be an http"),
    ('[providers.one]\nonly_models = ["one-modl"]', "providers.one.only_models: one-modl is no model"),
    ('[providers.one.models.new]\nkind = "image"', "providers.one.models: new is no model .* there are one-model"),
    ('[providers.any.models.new]\nkind = "image"', "providers.any.models.new: .*operations"),
    ("[providers.one.models.one-model]\nmax_m = 3", "providers.one.models.one-model: .*max_m"),
    ("[providers.one.models.one-model]\nprice = { as_of = 2030-01-01, rows = [{ usd = 0.5 }] }", "one-model: .*usd"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text.replace("\n", " ")[:60] for text, _ in WRONG])
def test_what_the_file_gets_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """A vendor, address, model or credential that cannot be is refused at the start, by its place in the file."""
    cards = [vendor("one"), vendor("two", keys={"api_key": "TWO_KEY"})]
    with pytest.raises(SettingsError, match=said):
        configured(tmp_path, *cards, *([vendor("any", accepts_any_model=True)] if ".any." in text else []), text=text)


def test_no_error_repeats_a_credential(tmp_path: Path) -> None:
    """A slip beside a credential is named without it."""
    text = '[providers.two]\ncredentials = { apikey = "sk-very-secret" }'
    with pytest.raises(SettingsError) as caught:
        configured(tmp_path, vendor("two", keys={"api_key": "TWO_KEY"}), text=text)
    assert "sk-very-secret" not in str(caught.value)
