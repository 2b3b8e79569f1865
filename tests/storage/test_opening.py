"""What the URL of an object store may say, and what becomes of one that says something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from storage.local import LocalStore
from storage.memory import MemoryStore
from storage.objects import ObjectError
from storage.opening import open_store
from storage.s3 import S3Store


def test_a_url_opens_its_store(tmp_path: Path) -> None:
    """Each kind of URL, and a plain path, opens the store that it means."""
    assert isinstance(open_store("memory:"), MemoryStore)
    for url in ((tmp_path / "a b").as_uri(), str(tmp_path / "a b")):
        assert isinstance(open_store(url), LocalStore)
        assert (tmp_path / "a b").is_dir()
        shutil.rmtree(tmp_path / "a b")
    store = open_store(
        "s3://bucket/some/prefix?endpoint=http://127.0.0.1:1&region=eu-west-1&addressing=path&checksums=when_required",
        access_key="AK", secret_key="SK",
    )  # fmt: skip
    assert isinstance(store, S3Store)
    bucket = store.bucket
    assert (bucket.name, bucket.prefix, bucket.endpoint) == ("bucket", "some/prefix", "http://127.0.0.1:1")
    assert (bucket.region, bucket.addressing, bucket.checksums) == ("eu-west-1", "path", "when_required")
    assert (store.link("a", "text/plain", 60) or "").startswith("http://127.0.0.1:1/bucket/some/prefix/a?")
    assert "SK" not in repr(bucket)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://bucket?zone=1&colour=red", "zone, colour"),
        ("s3://bucket?endpoint=http://h&zone=", "zone"),
        ("s3://bucket?addressing=sideways", "addressing"),
        ("s3://bucket?checksums=never", "checksums"),
        ("s3:///prefix", "bucket's name"),
        ("s3://key:secret@bucket", "bucket's name"),
        ("s3://bucket/../other", "not a key"),
        ("s3://bucket/a//b", "not a key"),
        ("s3://bucket/a#b", "no #"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket?endpoint=nonsense", "endpoint"),
        ("s3://bucket?endpoint=", "endpoint"),
        ("s3://bucket?region=a%20b", "region"),
        ("memory:?size=1", "size"),
        ("file:///tmp/x?mode=1", "mode"),
        ("file://host/tmp/x", "this machine"),
        ("file:", "folder"),
        ("ftp://host/x", "ftp"),
        ("", "no store"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    """A URL with a member, value or scheme that is not known is a ValueError that names it."""
    with pytest.raises(ValueError, match=said) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("half", [{"access_key": "AK"}, {"secret_key": "SK"}])
def test_half_a_credential_is_refused(half: dict[str, str]) -> None:
    """One key without the other is a ValueError at once, and not a store that fails later."""
    with pytest.raises(ValueError, match="belong together"):
        open_store("s3://bucket", **half)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A folder that cannot be made is an ObjectError when the store is opened."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ObjectError):
        open_store((tmp_path / "file/folder").as_uri())
