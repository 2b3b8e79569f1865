"""Keys: whatever is wrong with one, the answer is the same."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from gateway.core import signing
from tests.http.replies import exchange, refused
from tests.http.server import ADMIN_KEY, Heliograph

CREDENTIALS = [
    "Basic {key}", "Bearer  {key}", "Bearer\t{key}", '"Bearer {key}"', 'Bearer "{key}"', "Bearer", "Bearer a", "{key}",
    "Token {key}", "Bearer {key},", "Bearer {key} {key}", "Bearer {key}%00", "Bearer " + "a" * 30_000,
    "Bearer ' OR 1=1--aaaaaaa",
    "Bearer %" + "a" * 40, "Bearer \xe9" + "a" * 40, "Bearer hg_" + "A" * 38, "Bearer " + "0" * 64,
]  # fmt: skip


@pytest.mark.parametrize("credential", CREDENTIALS, ids=range(len(CREDENTIALS)))
def test_a_credential_that_is_none_is_refused(heliograph: Heliograph, credential: str) -> None:
    """Whatever is wrong with a key, the answer is the same."""
    field = credential.replace("{key}", heliograph.key).encode("latin-1")
    sent = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: " + field + b"\r\n\r\n"
    (reply,) = exchange(heliograph.address, sent)
    assert refused(reply, 401, "invalid_api_key") == _message_without_key(heliograph)


def _message_without_key(heliograph: Heliograph) -> str:
    (reply,) = exchange(heliograph.address, b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert reply.headers["www-authenticate"] == "Bearer"
    return refused(reply, 401, "invalid_api_key")


def test_the_forms_of_a_key(heliograph: Heliograph) -> None:
    """A bearer in any case or X-API-Key; never two of them, and never in the query."""
    key = heliograph.key
    with heliograph.client() as client:
        del client.headers["Authorization"]
        for headers in ({"Authorization": f"bearer {key}"}, {"Authorization": f"BEARER {key}"}, {"X-API-Key": key}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        for name, value in (("Authorization", f"Bearer {key}"), ("X-API-Key", key)):
            refused(client.get("/v1/models", headers=[(name, value), (name, value)]), 401, "invalid_api_key")
        refused(client.get(f"/v1/models?api_key={key}"), 401, "invalid_api_key")


def test_a_key_with_any_one_character_changed_is_another(heliograph: Heliograph) -> None:
    """A slip at any place of a key is refused, a beginning that fits included, and so is all that is no issued key."""
    with heliograph.client() as client:
        for at in range(len(heliograph.key)):
            other = "a" if heliograph.key[at] != "a" else "b"
            wrong = heliograph.key[:at] + other + heliograph.key[at + 1 :]
            refused(client.get("/v1/models", headers={"Authorization": f"Bearer {wrong}"}), 401, "invalid_api_key")
        unissued = signing.new_key_text(heliograph.settings.key_prefix)
        refused(client.get("/v1/models", headers={"Authorization": f"Bearer {unissued}"}), 401, "invalid_api_key")
        secret = signing.derive(heliograph.settings.secret or "", "virtual key digests")
        digest = signing.digest(secret, heliograph.key)
        refused(client.get("/v1/models", headers={"Authorization": f"Bearer {digest}"}), 401, "invalid_api_key")


def test_a_key_that_is_over_is_refused(heliograph: Heliograph, admin: httpx.Client) -> None:
    """Expired and revoked keys are no keys, and to revoke one again changes nothing."""
    expired = admin.post("/admin/v1/keys", json={"name": "expired"}).json()
    with closing(sqlite3.connect(Path(heliograph.settings.data_dir) / "heliograph.db")) as database, database:
        database.execute("UPDATE virtual_keys SET expires_at = created_at WHERE id = ?", (expired["id"],))
    revoked = admin.post("/admin/v1/keys", json={"name": "revoked"}).json()
    with heliograph.client(revoked["key"]) as client:
        assert client.get("/v1/models").status_code == 200
        for _ in range(2):
            assert admin.delete(f"/admin/v1/keys/{revoked['id']}").json()["revoked_at"] is not None
        refused(client.get("/v1/models"), 401, "invalid_api_key")
    with heliograph.client(expired["key"]) as client:
        refused(client.get("/v1/models"), 401, "invalid_api_key")


def test_administration_is_for_the_administrator(heliograph: Heliograph) -> None:
    """A virtual key is told so, anybody else gets 401, and the admin key opens nothing else."""
    for key, status, code in ((heliograph.key, 403, "operation_not_allowed"), ("x" * 40, 401, "invalid_api_key")):
        with heliograph.client(key) as client:
            refused(client.get("/admin/v1/keys"), status, code)
            refused(client.post("/admin/v1/keys", content=b"{"), status, code)
            refused(client.delete("/admin/v1/keys/%00"), status, code)
    with heliograph.client(ADMIN_KEY) as client:
        refused(client.get("/v1/models"), 401, "invalid_api_key")


def test_no_id_of_a_key_is_more_than_not_found(admin: httpx.Client) -> None:
    """Whatever stands where the id of a key should is not found."""
    for id in ("%00", "x", "%ff", "a" * 300, "key_" + "0" * 26, "key_" + "0" * 26 + "%00", "-1", "%27", "*"):
        refused(admin.get(f"/admin/v1/keys/{id}"), 404, "key_not_found")
        refused(admin.delete(f"/admin/v1/keys/{id}"), 404, "key_not_found")
