"""Media over HTTP: links, ranges and conditions, in all the forms that clients and others send."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import httpx
import pytest

from tests.http.replies import refused
from tests.http.server import Heliograph


class Picture(NamedTuple):
    """A picture that is there for all tests: two ways to it, its bytes and its tag."""

    link: str
    path: str
    data: bytes
    etag: str


@pytest.fixture(scope="module")
def picture(running: Heliograph) -> Picture:
    """A small picture of the first key."""
    with running.client() as client:
        made = client.post("/v1/images/generations", json={"model": "demo-image", "prompt": "a", "size": "256x256"})
        link = made.json()["data"][0]["url"].removeprefix(running.url)
        path = "/v1/images/" + link.removeprefix("/media/").partition(".")[0]
        reply = client.get(link)
        return Picture(link, path, reply.content, reply.headers["etag"])


@pytest.fixture
def anybody(heliograph: Heliograph) -> Iterator[httpx.Client]:
    """A client without a key."""
    with heliograph.client() as client:
        del client.headers["Authorization"]
        yield client


PARTS = [
    ("bytes=0-9", 0, 10), ("bytes=5-", 5, None), ("bytes=-5", -5, None), ("bytes=0-99999999", 0, None),
    ("bytes=-99999999", 0, None), ("bytes=0-0", 0, 1), ("bytes=000-0001", 0, 2),
    ("bytes=3-" + "9" * 30, 3, None), ("bytes=-" + "9" * 3999, 0, None),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "start", "end"), PARTS, ids=range(len(PARTS)))
def test_a_part_is_served(client: httpx.Client, picture: Picture, asked: str, start: int, end: int | None) -> None:
    """206 with exactly those bytes, and where they are in the whole."""
    for path in (picture.link, picture.path):
        reply = client.get(path, headers={"Range": asked})
        assert (reply.status_code, reply.content) == (206, picture.data[start:end])
        first = start % len(picture.data)
        last = first + len(reply.content) - 1
        assert reply.headers["content-range"] == f"bytes {first}-{last}/{len(picture.data)}"
        assert reply.headers["content-length"] == str(len(reply.content))


MEANINGLESS = [
    "lines=1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=9-1", "bytes=1-2-3", "bytes=0-0,0-0", "bytes=0-,0-",
    "bytes=" + ",".join(["0-0"] * 5000), "bytes=0-" + "9" * 5000, "bytes=\u00b2-\u00b3",
    "bytes=0x0-0x9",
    "bytes= 0-1", "bytes=+0-1", "",
]  # fmt: skip


@pytest.mark.parametrize("asked", MEANINGLESS, ids=range(len(MEANINGLESS)))
def test_a_range_that_makes_no_sense_is_ignored(client: httpx.Client, picture: Picture, asked: str) -> None:
    """The whole picture, at once, for what is no single range; thousands of ranges are not added up."""
    started = time.process_time()
    reply = client.get(picture.link, headers=[(b"Range", asked.encode("latin-1"))])
    assert (reply.status_code, reply.content) == (200, picture.data)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0", "bytes=99999998-99999999", f"bytes={'9' * 30}-"])
def test_a_range_behind_the_end_is_refused(client: httpx.Client, picture: Picture, asked: str) -> None:
    """416 tells how long the picture is."""
    reply = client.get(picture.link, headers={"Range": asked})
    refused(reply, 416, "range_not_satisfiable")
    assert reply.headers["content-range"] == f"bytes */{len(picture.data)}"


@pytest.mark.parametrize("form", ["{etag}", "W/{etag}", "*", '"a", {etag}', '"a",{etag},"b"'])
def test_what_the_client_has_is_not_sent_again(client: httpx.Client, picture: Picture, form: str) -> None:
    """304 without a body when the tag is among those that the client has."""
    for path in (picture.link, picture.path):
        reply = client.get(path, headers={"If-None-Match": form.format(etag=picture.etag)})
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", picture.etag)


CONDITIONS = [
    {"If-None-Match": "nonsense"}, {"If-None-Match": ""}, {"If-None-Match": ',,,"'}, {"If-Modified-Since": "yesterday"},
    {"If-Unmodified-Since": "Sat, 99 Foo 0000"}, {"If-Range": "Sat, 99 Foo 0000"},
    {"If-Range": "nonsense", "Range": "bytes=0-1"}, {"If-Range": '"a"', "Range": "bytes=0-1"},
    {"If-Range": "Wed, 21 Oct 2015 07:28:00 GMT", "Range": "bytes=0-1"}, {"Accept": "text/html"}, {"Accept": ""},
    {"Accept-Encoding": "gzip;q=nonsense"}, {"Content-Length": "0"},
]  # fmt: skip


@pytest.mark.parametrize("headers", CONDITIONS, ids=range(len(CONDITIONS)))
def test_a_condition_that_does_not_hold_gets_the_whole(
    client: httpx.Client, picture: Picture, headers: dict[str, str]
) -> None:
    """Broken dates, foreign tags and other nonsense are no reason to send less, or an error."""
    reply = client.get(picture.link, headers=headers)
    assert (reply.status_code, reply.content) == (200, picture.data)


def test_a_part_is_served_if_it_is_still_the_same(client: httpx.Client, picture: Picture) -> None:
    """If-Range with the tag that we gave gets the part."""
    reply = client.get(picture.link, headers={"If-Range": picture.etag, "Range": "bytes=0-1"})
    assert (reply.status_code, reply.content) == (206, picture.data[:2])


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}])
def test_head_says_what_get_would_send(client: httpx.Client, picture: Picture, headers: dict[str, str]) -> None:
    """Status, length, type and tag without the bytes, of the whole and of a part."""
    for path in (picture.link, picture.path):
        spared, sent = client.head(path, headers=headers), client.get(path, headers=headers)
        assert (spared.status_code, spared.content) == (sent.status_code, b"")
        for name in ("content-length", "content-type", "etag", "accept-ranges", "x-content-type-options"):
            assert spared.headers[name] == sent.headers[name]


def test_what_is_served_cannot_run(anybody: httpx.Client, picture: Picture) -> None:
    """A picture is served as what it is and under headers that let nothing in it run, whatever the query asks for."""
    reply = anybody.get(picture.link + "&response-content-type=text/html&download=1")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"


CHANGES = [
    (".png", ".html"), (".png", ".svg"), (".png", ""), (".png", ".png.html"), ("exp=", "exp=9"), ("exp=", "exp=-"),
    ("exp=", "exp=%D9%A1"), ("exp=", "exp=1&exp="), ("exp=", "a="), ("sig=", "sig=a"), ("sig=", "sig=%ff"),
    ("sig=", "sig=%C3%A9"), ("sig=", "a="), ("?", "%3F"), ("img_", "vid_"), ("img_", "IMG_"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_link_that_was_changed_leads_nowhere(anybody: httpx.Client, picture: Picture, old: str, new: str) -> None:
    """Another name, time or signature is another link, which nobody signed; a part of it is none."""
    assert old in picture.link
    refused(anybody.get(picture.link.replace(old, new, 1)), 404, "media_not_found")


@pytest.mark.parametrize("credential", ["Bearer wrong", "Basic YTpi", "Bearer"])
def test_a_link_works_whatever_key_comes_along(anybody: httpx.Client, picture: Picture, credential: str) -> None:
    """A link needs no key, and a wrong one does no harm: clients send theirs to every address of the same host."""
    assert anybody.get(picture.link, headers={"Authorization": credential}).content == picture.data


def test_a_picture_of_another_key_is_not_there(heliograph: Heliograph, picture: Picture) -> None:
    """Reading and deleting a foreign picture get the answer of one that never was."""
    with heliograph.client(heliograph.other_key) as client:
        for method in ("GET", "DELETE"):
            refused(client.request(method, picture.path), 404, "media_not_found")
            refused(client.request(method, picture.path.replace("images", "media")), 404, "media_not_found")
        assert client.head(picture.path).status_code == 404


def test_a_picture_that_was_deleted_is_gone(client: httpx.Client) -> None:
    """After its deletion neither the link nor the id leads to it, and a second deletion finds nothing."""
    made = client.post("/v1/images/generations", json={"model": "demo-image", "prompt": "b", "size": "256x256"})
    link = made.json()["data"][0]["url"]
    path = "/v1/images/" + link.partition("/media/")[2].partition(".")[0]
    assert client.delete(path).json()["deleted"] is True
    for reply in (client.get(link), client.get(path), client.delete(path)):
        refused(reply, 404, "media_not_found")
    assert client.head(link).status_code == 404
