"""Settings: one place, nothing unknown, nothing secret in sight, and errors that name the setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.settings import FILE_ONLY, HINTS, NAMES, SECRETS, Settings, SettingsError, load, variable

NOWHERE = Path("/dev/null")
HIDDEN = "never-to-be-seen-by-anybody-anywhere"


def from_environment(**environ: str) -> Settings:
    """The settings of an environment alone; names without the prefix."""
    return load({f"HELIOGRAPH_{name}": value for name, value in environ.items()}, NOWHERE)


@pytest.fixture
def from_file(tmp_path: Path) -> Any:
    """Loads a TOML text, with an environment over it."""

    def loaded(text: str, **environ: str) -> Settings:
        file = tmp_path / "heliograph.toml"
        file.write_text(text, encoding="utf-8")
        return load({f"HELIOGRAPH_{name}": value for name, value in environ.items()}, file)

    return loaded


def test_nothing_has_to_be_set() -> None:
    """An empty environment gives a gateway that runs: on loopback, with SQLite and a folder below the data folder."""
    settings = load({}, NOWHERE)
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.database == f"sqlite:///{Path('data').resolve()}/heliograph.db"
    assert settings.storage == (Path("data").resolve() / "objects").as_uri()
    assert (settings.secret, settings.admin_key, settings.providers) == (None, None, {})


def test_what_is_not_given_is_as_documented() -> None:
    """Loading an empty environment changes no default."""
    assert msgspec.structs.replace(load({}, NOWHERE), environ={}) == Settings()


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_description(name: str) -> None:
    """What stands in the reference of settings is written with the setting itself."""
    (described,) = [meta.description for meta in HINTS[name].__metadata__ if meta.description]
    assert described.endswith((".", "?"))


def test_the_environment_wins_over_the_file(from_file: Any) -> None:
    """What is in both is taken from the environment; what is in one, from there."""
    settings = from_file('port = 1\nhost = "::"\nlog_level = "debug"', PORT="2", LEASE_SECONDS="7.5")
    assert (settings.port, settings.host, settings.log_level, settings.lease_seconds) == (2, "::", "debug", 7.5)


def test_an_empty_variable_is_as_if_it_were_not_set(from_file: Any) -> None:
    """Deployments that pass every variable through, empty or not, change nothing by that."""
    assert from_file("port = 1", PORT="", DATABASE_URL="").port == 1
    assert from_environment(DATABASE_URL="").database_url is None


def test_lists_are_separated_by_commas(from_file: Any) -> None:
    """A list in the environment is split at commas, without blanks and empty parts."""
    assert from_environment(ALLOW_HOSTS=" 10.1.0.0/16, comfy:8188,,").allow_hosts == (
        "10.1.0.0/16",
        "comfy:8188",
    )
    assert from_file('allow_hosts = ["comfy.lan"]').allow_hosts == ("comfy.lan",)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PROT": "1"}, "HELIOGRAPH_PROT is not a setting; did you mean HELIOGRAPH_PORT?"),
        ({"DATABSE_URL": "x"}, "HELIOGRAPH_DATABSE_URL is not a setting; did you mean HELIOGRAPH_DATABASE_URL?"),
        ({"XYZZY": "1"}, "HELIOGRAPH_XYZZY is not a setting"),
        ({"PROVIDERS": "openai"}, "HELIOGRAPH_PROVIDERS is not a setting"),
        ({"ENVIRON": "x"}, "HELIOGRAPH_ENVIRON is not a setting"),
    ],
    ids=lambda one: "_".join(one) if isinstance(one, dict) else "",
)
def test_an_unknown_variable_is_refused(environ: dict[str, str], said: str) -> None:
    """A slip in a name is no silence: it is refused, with the name that was probably meant."""
    with pytest.raises(SettingsError) as caught:
        from_environment(**environ)
    assert said in str(caught.value)


def test_an_unknown_name_in_the_file_is_refused(from_file: Any) -> None:
    """Also in the file, at the top and inside of its tables."""
    with pytest.raises(SettingsError, match="prot is not a setting; did you mean port"):
        from_file("prot = 1")
    with pytest.raises(SettingsError, match="environ is not a setting"):
        from_file("environ = {}")
    with pytest.raises(SettingsError, match=r"^providers\.\w+: .*unknown field vendr$"):
        from_file('[providers.second]\nvendr = "openai"')
    with pytest.raises(SettingsError, match=r"^models\.x\.routes.*missing required field model$"):
        from_file('[models.x]\nroutes = [{provider = "demo"}]')
    with pytest.raises(SettingsError, match="aliases"):
        from_file('[aliases.x]\nmodl = "demo"')


def test_what_makes_no_sense_in_the_file_is_named_as_it_stands_there(from_file: Any) -> None:
    """Whoever wrote it there has set no variable; a variable that is set over it is named itself."""
    for text in ('port = "x"', 'secret = "short"', 'public_url = "media.example.com"'):
        with pytest.raises(SettingsError, match=rf"^\S+heliograph\.toml: {text.split()[0]}\b"):
            from_file(text)
    with pytest.raises(SettingsError, match=r"^HELIOGRAPH_PORT: "):
        from_file("port = 1", PORT="x")


BAD = [
    ("PORT", "eighty", "an integer, got a string"),
    ("PORT", "65536", "<= 65535"),
    ("PORT", "-1", ">= 0"),
    ("LEASE_SECONDS", "0.5", ">= 1"),
    ("SYNC_SECONDS", "nan", ">= 1"),
    ("SYNC_SECONDS", "inf", "<= 3600"),
    ("SWEEP_SECONDS", "0", "> 0"),
    ("LOG_LEVEL", "loud", "one of debug, info, warning, error, not 'loud'"),
    ("MEDIA_LINKS", "none", "one of gateway, presigned, public, not 'none'"),
    ("DATABASE_URL", "postgresql://db:99999/x", "whole URL"),
    ("KEY_PREFIX", "sk live", "regex"),
    ("KEY_PREFIX", "x" * 17, "regex"),
    ("SECRET", "short", "32 characters"),
    ("ADMIN_KEY", "short", "16 characters"),
    ("DATABASE_URL", "mysql://db/x", "postgresql: or sqlite:"),
    ("DATABASE_URL", "localhost", "postgresql: or sqlite:"),
    ("BROKER_URL", "redis://x", "amqp: or amqps:"),
    ("STORAGE_URL", "ftp://x", "s3: or file: or memory:"),
    ("PUBLIC_URL", "media.example.com", "http: or https:"),
    ("PUBLIC_URL", "http://[::1", "http: or https:"),
    ("MEDIA_PUBLIC_URL", "javascript:alert(1)", "http: or https:"),
    ("MEDIA_LINKS", "public", "HELIOGRAPH_MEDIA_PUBLIC_URL"),
    ("MEDIA_LINKS", "presigned", "HELIOGRAPH_STORAGE_URL"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD, ids=[f"{name}={value[:12]}" for name, value, _ in BAD])
def test_a_value_without_sense_is_refused_by_name(name: str, value: str, said: str) -> None:
    """A value that cannot be is refused at the start, and the message says which setting and what would do."""
    with pytest.raises(SettingsError) as caught:
        from_environment(**{name: value})
    assert f"HELIOGRAPH_{name}" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\x00"])
def test_a_file_that_is_no_toml_is_refused_by_name(from_file: Any, text: str) -> None:
    """A broken file is named."""
    with pytest.raises(SettingsError, match=r"heliograph\.toml: "):
        from_file(text)


def test_a_file_that_is_not_there_is_refused_when_it_was_asked_for(tmp_path: Path) -> None:
    """A configuration that is named and missing is an error; the usual one may be missing."""
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        load({}, tmp_path / "gone.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """A configuration in another encoding is named, too."""
    file = tmp_path / "heliograph.toml"
    file.write_bytes(b'host = "\xff"')
    with pytest.raises(SettingsError, match=r"heliograph\.toml"):
        load({}, file)


def test_secrets_are_in_no_representation(from_file: Any) -> None:
    """Whatever is secret, or may hold a secret, is not in the representation of the settings."""
    text = f'[providers.openai]\ncredentials = {{ api_key = "{HIDDEN}" }}'
    texts = SECRETS - {"providers", "environ", "database_url", "broker_url"}
    urls = {"DATABASE_URL": f"postgresql://u:{HIDDEN}@db/x", "BROKER_URL": f"amqp://u:{HIDDEN}@mq/"}
    settings = from_file(text, **{name.upper(): HIDDEN for name in texts}, **urls)
    assert all(HIDDEN in getattr(settings, name) for name in (*texts, "database_url", "broker_url"))
    assert settings.providers["openai"].credentials == {"api_key": HIDDEN}
    for shown in (repr(settings), str(settings), f"{settings!r}", repr(settings.providers)):
        assert HIDDEN not in shown
    assert "port=8000" in repr(settings)


def test_the_environment_of_vendors_is_kept_and_hidden() -> None:
    """Variables without our prefix are there for cards to name, and in no representation either."""
    settings = load({"OPENAI_API_KEY": HIDDEN, "HELIOGRAPH_PORT": "1"}, NOWHERE)
    assert settings.environ == {"OPENAI_API_KEY": HIDDEN}
    assert HIDDEN not in repr(settings)


@pytest.mark.parametrize("environ", [{"SECRET": "hunter2"}, {"ADMIN_KEY": "hunter2"}, {"DATABASE_URL": "hunter2"}])
def test_a_refused_secret_is_not_repeated(environ: dict[str, str]) -> None:
    """The message of a bad secret names the setting and not its value."""
    with pytest.raises(SettingsError) as caught:
        from_environment(**environ)
    assert "hunter2" not in str(caught.value)


def test_variables_are_named_after_their_settings() -> None:
    """Each setting of the environment has one name there, and the tables of the file have none."""
    assert variable("lease_seconds") == "HELIOGRAPH_LEASE_SECONDS"
    assert set(NAMES) >= FILE_ONLY
    assert "environ" not in NAMES
