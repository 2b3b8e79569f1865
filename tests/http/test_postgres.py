"""Odd text over PostgreSQL, which takes less than SQLite: what cannot be stored is refused, and the rest is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.http.replies import refusal
from tests.http.server import ADMIN_KEY, CONFIG, ENVIRON, Heliograph, serving

TEXTS = [
    "\0", "a\0b", "\\u0000", "\x01", "\x7f", "\ufeff", "\u202e", "\uffff", "\U0010ffff", "😀",
    "'; DROP TABLE tasks; --", '"', "\\", "%", "$1", "{}", "\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def stored(new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heliograph]:
    """A gateway whose rows are in PostgreSQL."""
    environ = {**ENVIRON, "HELIOGRAPH_DATABASE_URL": new_database()}
    with serving(tmp_path_factory.mktemp("stored"), CONFIG, environ) as heliograph:
        yield heliograph
    assert [record.getMessage() for record in heliograph.faults] == []


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_stored_as_it_came_or_refused(stored: Heliograph, text: str) -> None:
    """Wherever a text may stand in a request, it comes back unchanged, or the request was refused for NUL in it."""
    body = {
        "model": "patient-image", "prompt": f"a{text}", "async": True, "metadata": {f"k{text}": text},
        "user": f"a{text}", "note": {text: [text]},
    }  # fmt: skip
    with stored.client() as client:
        reply = client.post("/v1/images/generations", json=body)
        if "\0" in text:
            assert refusal(reply)["code"] == "invalid_parameter"
            return
        assert reply.status_code == 202
        assert client.get(f"/v1/tasks/{reply.json()['id']}").json()["metadata"] == {f"k{text}": text}


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_looked_for_or_refused(stored: Heliograph, text: str) -> None:
    """Wherever a text may be asked for, nothing is found by it, or the request was refused."""
    with stored.client() as client:
        for path in ("/v1/tasks", "/v1/media"):
            for name in ("status", "type", "model", "after", "order", "limit"):
                _answered(client.get(path, params={name: text}))
    with stored.client(ADMIN_KEY) as client:
        _answered(client.get(f"/admin/v1/keys/{quote(text, safe='')}"))
        issued = client.post("/admin/v1/keys", json={"name": f"a{text}"})
        if _answered(issued):
            assert issued.json()["name"] == f"a{text}"


def _answered(reply: httpx.Response) -> bool:
    """Whether it was a success; if not, it is a refusal."""
    if reply.status_code >= 400:
        refusal(reply)
    return reply.status_code < 400
