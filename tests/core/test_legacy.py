"""Storage settings under Conduit's names: they mean what they meant, ours hold, and nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.core.legacy import MEANINGS, NEEDLESS, PREFIX
from gateway.core.runtime import open_objects
from gateway.core.settings import Settings, SettingsError, load
from storage.s3 import Bucket, S3Store

NOWHERE = Path("/dev/null")
BUCKET = {
    "CONDUITLLM__STORAGE__PROVIDER": "S3",
    "CONDUITLLM__STORAGE__S3__SERVICEURL": "https://account.r2.cloudflarestorage.com",
    "CONDUITLLM__STORAGE__S3__ACCESSKEY": "an-access-key",
    "CONDUITLLM__STORAGE__S3__SECRETKEY": "a-secret-key",
    "CONDUITLLM__STORAGE__S3__BUCKETNAME": "conduit-media",
    "CONDUITLLM__STORAGE__S3__REGION": "auto",
}


def bucket(settings: Settings) -> Bucket:
    """The bucket that would be used."""
    store = open_objects(settings)
    assert isinstance(store, S3Store)
    return store.bucket


def test_a_bucket_is_the_same_bucket() -> None:
    """What was set for Conduit opens that bucket, at that address, with those keys, by path; and nothing is noted."""
    settings = load(BUCKET, NOWHERE)
    assert bucket(settings) == Bucket(
        "conduit-media", endpoint="https://account.r2.cloudflarestorage.com", region="auto", addressing="path",
        access_key="an-access-key", secret_key="a-secret-key",
    )  # fmt: skip
    assert (settings.notes, settings.media_links) == ((), "gateway")


def test_the_case_of_names_means_nothing() -> None:
    """They are written as its documentation has them, or as its options do."""
    spelled = {
        "ConduitLLM__Storage__Provider": "s3",
        "ConduitLLM__Storage__S3__BucketName": "media",
        "CONDUITLLM__STORAGE__S3__FORCEPATHSTYLE": "False",
    }
    assert bucket(load(spelled, NOWHERE)) == Bucket("media")


def test_a_public_address_is_used_for_links() -> None:
    """Links lead there without a signature, as they did."""
    settings = load({**BUCKET, "CONDUITLLM__STORAGE__S3__PUBLICBASEURL": "https://cdn.example.com"}, NOWHERE)
    assert (settings.media_links, settings.media_public_url) == ("public", "https://cdn.example.com")


def test_other_members_have_their_meaning() -> None:
    """Memory is memory, and the largest file is the largest output."""
    assert load({"CONDUITLLM__STORAGE__PROVIDER": "InMemory"}, NOWHERE).storage == "memory:"
    settings = load({**BUCKET, "CONDUITLLM__STORAGE__S3__MAXFILESIZEBYTES": "524288000"}, NOWHERE)
    assert settings.max_output_bytes == 524_288_000


def test_ours_hold_and_the_conflict_is_said(tmp_path: Path) -> None:
    """By the variable's name and never by its value, whether ours come from the environment or from the file."""
    ours = {"HELIOGRAPH_S3_ACCESS_KEY": "another-key", "HELIOGRAPH_S3_SECRET_KEY": "a-secret-key"}
    file = tmp_path / "heliograph.toml"
    file.write_text('storage_url = "s3://ours"', encoding="utf-8")
    settings = load({**BUCKET, **ours}, file)
    assert bucket(settings) == Bucket("ours", access_key="another-key", secret_key="a-secret-key")
    assert settings.notes == (
        "CONDUITLLM__STORAGE__PROVIDER with CONDUITLLM__STORAGE__S3__BUCKETNAME says something else than "
        "HELIOGRAPH_STORAGE_URL, which holds.",
        "CONDUITLLM__STORAGE__S3__ACCESSKEY says something else than HELIOGRAPH_S3_ACCESS_KEY, which holds.",
    )
    assert "another-key" not in repr(settings)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"PROVIDER": "Azure"}, "CONDUITLLM__STORAGE__PROVIDER must be one of S3, InMemory, not 'Azure'"),
        ({"S3__BUCKETNAME": ""}, "CONDUITLLM__STORAGE__PROVIDER=S3 needs CONDUITLLM__STORAGE__S3__BUCKETNAME"),
        ({"S3__FORCEPATHSTYLE": "maybe"}, "CONDUITLLM__STORAGE__S3__FORCEPATHSTYLE must be true or false, not 'maybe'"),
        ({"S3__MAXFILESIZEBYTES": "1GB"}, "HELIOGRAPH_MAX_OUTPUT_BYTES: expected an integer"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changed: dict[str, str], said: str) -> None:
    """At the start, with what would be right."""
    with pytest.raises(SettingsError) as caught:
        load({**BUCKET, **{PREFIX + name: value for name, value in changed.items()}}, NOWHERE)
    assert said in str(caught.value)


def test_what_has_no_meaning_here_is_said() -> None:
    """What is not needed, what nobody knows, and what waits for a provider; of other settings of Conduit no word."""
    notes = load({**BUCKET, **dict.fromkeys(NEEDLESS, "true"), f"{PREFIX}CDN": "x"}, NOWHERE).notes
    assert [note.split(" ")[0] for note in notes] == [*NEEDLESS, f"{PREFIX}CDN"]
    without = {name: value for name, value in BUCKET.items() if not name.endswith("PROVIDER")}
    settings = load(without, NOWHERE)
    assert settings.storage_url is None
    assert [note.split(" ")[0] for note in settings.notes] == sorted(without)
    assert load({"CONDUITLLM__RABBITMQ__HOST": "broker"}, NOWHERE).notes == ()


@pytest.mark.parametrize("name", MEANINGS)
def test_every_meaning_is_a_setting(name: str) -> None:
    """What the table says that a variable is for is there."""
    assert MEANINGS[name][0] in Settings.__struct_fields__


def test_odd_names_stay_in_their_place() -> None:
    """A bucket's name or a region with signs of a URL in it does not become another member of it."""
    odd = {**BUCKET, "CONDUITLLM__STORAGE__S3__REGION": "a&addressing=virtual#x"}
    query = parse_qs(urlsplit(load(odd, NOWHERE).storage).query)
    assert query["region"] == ["a&addressing=virtual#x"]
    with pytest.raises(SettingsError, match="HELIOGRAPH_STORAGE_URL"):
        open_objects(load({**BUCKET, "CONDUITLLM__STORAGE__S3__BUCKETNAME": "a?region=b"}, NOWHERE))
