"""The registry: where vendors are found, and what is said of those that are not in order."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from providers import vendors
from providers.card import CardError, Needs
from providers.contract import Generation, Kind, Operation, Order
from providers.registry import Registry, RegistryError

MODULE = """
from providers.contract import Done, Output, Provider

class Acme(Provider):
    async def submit(self, order):
        return Done((Output(data=b"x"),), usage={"at": self.http.base_url, "key": self.http.secrets["key"]})
"""
CARD = """
name = "{name}"
title = "Acme"
checked_on = 2026-11-21
base_url = "https://acme.test"
"""
Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Writes a vendor's files where modules are found, and forgets the modules afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(stem: str, *, module: str | None = MODULE, card: str | None = CARD, name: str | None = None) -> str:
        if module is not None:
            (tmp_path / f"{stem}.py").write_text(module)
        if card is not None:
            (tmp_path / f"{stem}.toml").write_text(card.format(name=name or stem))
        return stem

    yield write
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_every_built_in_vendor_is_found() -> None:
    """Each module among the vendors is in the registry, under its own name."""
    modules = {file.stem for file in Path(vendors.__path__[0]).glob("*.py") if not file.stem.startswith("_")}
    assert {"demo", "openai"} <= modules
    registry = Registry.load()
    assert modules <= {*registry.cards, *registry.absent}


@pytest.mark.parametrize("name", sorted(Registry.load().cards))
def test_every_vendor_can_be_built(name: str) -> None:
    """Its module imports, defines one Provider, and keeps the card it was given."""
    registry = Registry.load()
    card = registry.cards[name]
    assert registry.build(name, card, secrets=dict.fromkeys(card.credentials, "x")).card is card


async def test_a_named_module_is_a_vendor(make: Make) -> None:
    """A module that a setting names is built with the address and the secrets that it was given."""
    registry = Registry.load([make("acme_one")])
    card = registry.cards["acme_one"]
    provider = registry.build("acme_one", card, base_url="http://here.test/", secrets={"key": "k"})
    done = await provider.submit(Order(Generation(Kind.IMAGE, Operation.GENERATION, "m"), "m", "1"))
    assert msgspec.to_builtins(done)["usage"] == {"at": "http://here.test", "key": "k"}


def test_an_outside_package_is_a_vendor(make: Make, tmp_path: Path) -> None:
    """An entry point of an installed package names a vendor's module."""
    make("acme_two")
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[heliograph.providers]\nacme_two = acme_two\n")
    assert "acme_two" in Registry.load().cards
    assert "acme_two" in Registry.load(["acme_two"]).cards


def test_cards_are_read_without_importing_vendors(make: Make) -> None:
    """A module is imported when its provider is built and not before, so a broken one harms nobody else."""
    registry = Registry.load([make("acme_three", module="raise ImportError('no SDK')")])
    assert registry.cards["acme_three"].title == "Acme"
    with pytest.raises(ImportError, match="no SDK"):
        registry.build("acme_three", registry.cards["acme_three"], secrets={})


async def test_a_changed_card_is_used(make: Make) -> None:
    """The card that is given counts, so a setting can make a second provider of the same vendor."""
    registry = Registry.load([make("acme_four")])
    other = msgspec.structs.replace(registry.cards["acme_four"], name="mine", timeout=1.0)
    provider = registry.build(
        "acme_four", other, secrets={}, transport=httpx.MockTransport(lambda _: httpx.Response(200))
    )
    assert (provider.card.name, provider.http.client.timeout.read) == ("mine", 1.0)


def test_two_vendors_of_one_name_are_an_error(make: Make, tmp_path: Path) -> None:
    """A name that is taken names both modules."""
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "demo.py").write_text(MODULE)
    (package / "demo.toml").write_text(CARD.format(name="demo"))
    with pytest.raises(RegistryError, match=r"elsewhere\.demo: providers\.vendors\.demo is a vendor named demo"):
        Registry.load(["elsewhere.demo"])


def test_a_card_without_a_module_is_an_error(make: Make) -> None:
    """A module that does not exist is named, in a package that does not exist as well."""
    for module in (make("acme_five", module=None), "no_package.acme"):
        with pytest.raises(RegistryError, match=f"{module}: there is no such module"):
            Registry.load([module])


def test_a_module_without_a_card_is_an_error(make: Make) -> None:
    """The missing file is named."""
    with pytest.raises(RegistryError, match=r"acme_six: the card acme_six\.toml is missing"):
        Registry.load([make("acme_six", card=None)])


def test_a_card_under_another_name_is_an_error(make: Make) -> None:
    """The name on the card is the name of the file."""
    with pytest.raises(RegistryError, match="acme_seven: its card is named acme, not acme_seven"):
        Registry.load([make("acme_seven", name="acme")])


def test_a_card_that_is_wrong_is_an_error(make: Make) -> None:
    """What is wrong is said with the file's name."""
    with pytest.raises(CardError, match=r"acme_eight\.toml.*timeoout"):
        Registry.load([make("acme_eight", card=CARD + "timeoout = 3\n")])


@pytest.mark.parametrize("module", ["", MODULE + MODULE.replace("Acme", "Bcme")])
def test_a_module_must_define_one_provider(make: Make, module: str) -> None:
    """None and two are both refused; a Provider that is merely imported does not count."""
    stem = make("acme_nine", module="from providers.contract import Provider\n" + module)
    registry = Registry.load([stem])
    with pytest.raises(RegistryError, match=r"acme_nine: it defines [02] Provider subclasses instead of one"):
        registry.build(stem, registry.cards[stem], secrets={})


NEEDS = (
    CARD
    + """
[needs]
modules = ["json", "{module}"]
install = "acme[all]"
"""
)


def test_a_vendor_is_left_out_without_what_it_needs(make: Make, tmp_path: Path) -> None:
    """One module that is missing, or is a mere folder of its name, leaves it out; when all are there, it is there."""
    (tmp_path / "acme_sdk").mkdir()
    for module in ("acme_sdk", "no_such_module"):
        registry = Registry.load([make("acme_ten", card=NEEDS.replace("{module}", module))])
        assert "acme_ten" not in registry.cards
        assert registry.absent["acme_ten"].needs == Needs(("json", module), "acme[all]")
        with pytest.raises(RegistryError, match="there is no vendor acme_ten"):
            registry.build("acme_ten", registry.absent["acme_ten"], secrets={})
    (tmp_path / "acme_sdk/__init__.py").touch()
    importlib.invalidate_caches()
    registry = Registry.load([make("acme_ten", card=NEEDS.replace("{module}", "acme_sdk"))])
    assert ("acme_ten" in registry.cards, "acme_ten" in registry.absent) == (True, False)


def test_an_unknown_vendor_is_an_error() -> None:
    """The name is said together with those that exist."""
    registry = Registry.load()
    with pytest.raises(RegistryError, match=r"no vendor nobody; there are .*demo.*openai"):
        registry.build("nobody", registry.cards["demo"], secrets={})
