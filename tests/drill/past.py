"""A small past in which all went as promised, made by hand: what the tests of the checker spoil, a thing at a time."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Table, create_engine, insert
from standardwebhooks import Webhook

from gateway.core import webhook_tables  # noqa: F401 - its tables are part of the schema
from gateway.core.tables import METADATA
from tests.drill.history import CLIENT, FINAL, VENDOR, snapshot, survey
from tests.drill.sink import SINK

PRICE = 40_000
BEGAN = 1_800_000_000.0
WHENEVER = dt.datetime.fromtimestamp(BEGAN, dt.UTC)
# How a story ends: the task's state, its error code, what of the price is charged, and what the vendor noted.
ENDS = {
    "completed": ("completed", None, "delivered"),
    "too late": ("cancelled", None, "delivered"),
    "cancelled": ("cancelled", None, "cancelled"),
    "refused": ("failed", "provider_refused", None),
    "unknown": ("failed", "outcome_unknown", None),
    "expired": ("failed", "outcome_unknown", None),
}


class Past:
    """Rows, lines and objects that fit each other. Every fact comes a second after the one before."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("accounts", "tasks", "claims", "events", "attempts", "assets", "entries")
        }
        self.client: list[dict[str, Any]] = []
        self.vendor: list[dict[str, Any]] = []
        self.sink: list[dict[str, Any]] = []
        self.endpoints: dict[str, tuple[str, ...]] = {}
        self.hears: dict[str, tuple[str, ...]] = {}
        self.objects: dict[str, bytes] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self._now = BEGAN

    def account(self, id: str, *, key: bool = True, **values: Any) -> None:
        """An account, of a key unless it is an owner's."""
        at = self._at()
        times = dict.fromkeys(("window_at", "minute_at", "hour_at", "day_at", "served_at"), at)
        row = {"id": id, "key_id": id if key else None, "thresholds": [], "period": "total", **times, **values}
        row |= {"spent": 0, "reserved": 0, "sequence": 0}
        self.accounts[id] = row
        self.rows["accounts"].append(row)
        if key:
            self.client.append({"at": self._time(), "does": "key", "name": id, "id": id})
            self._hook(id, None)

    def endpoint(self, key: str, *words: str) -> None:
        """An endpoint of a key, which wants to hear of that."""
        self.endpoints[key] = words
        self._hook(key, words)

    def story(self, operation: str, key: str, script: str, end: str, n: int = 1, owner: str | None = None) -> None:
        """A request and all that came of it."""
        state, code, noted = ENDS[end]
        task = f"task_{operation}"
        ids = [key, f"owner:{owner}"] if owner else [key]
        row = {
            "id": task, "key_id": key, "owner": owner, "kind": "image", "operation": "generation", "model": "m",
            "generation": {"prompt": operation, "n": n, "extras": {"script": script}}, "state": state,
            "created_at": self._at(), "deadline_at": self._at(), "quoted": PRICE * n, "error_code": code,
        }  # fmt: skip
        self._event(row, "queued")
        self._move(ids, task, "reservation", PRICE * n)
        self.sent(operation, key, script, task=task, status=202, state="queued", images=0)
        self._event(row, "started")
        self._attempt(row, script, noted, n, "cancelled" if end == "too late" else state)
        if state == "cancelled":
            row["cancel_asked_at"] = self._at()
            self.sent(operation, key, script, does="cancel", task=task, status=200, state=state, images=0)
            self.client[-1]["images"] = n if noted == "delivered" else 0
        self._settle(row, ids, end, n)
        row["ended_at"] = self._at()
        self._event(row, state)
        self.sent(operation, key, script, does="look", task=task, status=200, state=state,
                  images=n if noted == "delivered" else 0)  # fmt: skip
        self.rows["tasks"].append(row)

    def sent(self, operation: str, key: str, script: str, does: str = "create", **answer: Any) -> None:
        """A line of the clients' own record."""
        line = {"at": self._time(), "sent_at": self._now - 0.5, "op": operation, "does": does, **answer}
        if does == "create":
            line |= {"key": key, "script": script, "idempotent": True, "synchronous": False}
            line["hears"] = self.hears.get(operation)
        self.client.append(line)

    def record(self, folder: Path) -> None:
        """Writes the five records as a drill leaves them; rows go through a real database, objects through a folder."""
        (folder / CLIENT).write_text("".join(json.dumps(line) + "\n" for line in self.client))
        (folder / VENDOR).write_text("".join(json.dumps(line) + "\n" for line in self.vendor))
        (folder / SINK).write_text("".join(json.dumps(line) + "\n" for line in self.sink))
        database = f"sqlite:///{folder / 'past.db'}"
        engine = create_engine(database)
        METADATA.create_all(engine)
        with engine.begin() as connection:
            for table, rows in self.rows.items():
                for row in rows:
                    connection.execute(insert(METADATA.tables[table]), _filled(METADATA.tables[table], row))
        engine.dispose()
        for key, data in self.objects.items():
            path = folder / "store" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (folder / "tables.json").write_text(json.dumps(asyncio.run(snapshot(database))))
        (folder / "objects.json").write_text(json.dumps(survey((folder / "store").as_uri())))

    def _attempt(self, task: dict[str, Any], script: str, noted: str | None, n: int, outcome: str) -> None:
        id, verb = task["id"], script.partition(":")[0]
        job, with_job = f"job-{id}", verb in ("job", "never")
        attempt = {"task_id": id, "number": 1, "provider": "p", "model": "m", "started_at": self._at(), "outputs": []}
        attempt |= {"outcome": outcome, "error_code": task["error_code"], "job": job if with_job else None}
        if verb != "refuse":
            self.vendor.append({
                "at": self._time(), "event": "accepted", "job": job, "key": f"{id}-1", "prompt": id, "n": n,
                "verb": verb, "cost": PRICE * n,
            })  # fmt: skip
        if noted:
            pictures = [f"{id} {position}".encode() for position in range(n)] if noted == "delivered" else []
            digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
            self.vendor.append({"at": self._time(), "event": noted, "job": job, "sha256": digests})
            for position, (picture, digest) in enumerate(zip(pictures, digests, strict=True)):
                self._asset(task, position, picture, digest)
        self.rows["attempts"].append(attempt | {"ended_at": self._at()})

    def _asset(self, task: dict[str, Any], position: int, picture: bytes, digest: str) -> None:
        key = f"media/{task['id']}/1-{position}"
        self.objects |= {key: picture, f"{key}.thumbnail": b"small"}
        self.rows["assets"].append({
            "id": f"img_{task['id']}_{position}", "task_id": task["id"], "key_id": task["key_id"], "position": position,
            "kind": "image", "object_key": key, "media_type": "image/png", "size": len(picture), "sha256": digest,
            "pictures": {"thumbnail": {}}, "created_at": self._at(),
        })  # fmt: skip

    def _settle(self, task: dict[str, Any], ids: list[str], end: str, n: int) -> None:
        if end == "unknown":
            task |= {"held": PRICE * n, "held_until": self._at()}
            return
        kind = {"completed": "charge", "too late": "charge", "expired": "expiry"}.get(end, "release")
        self._move(ids, task["id"], kind, PRICE * n)
        task["charged"] = PRICE * n if kind == "charge" else None

    def _move(self, ids: list[str], task: str, kind: str, amount: int) -> None:
        for id in ids:
            account = self.accounts[id]
            account["reserved"] += amount if kind == "reservation" else -amount
            account["spent"] += amount if kind == "charge" else 0
            account["sequence"] += 1
            names = ("sequence", "spent", "reserved", "window_at")
            row = {"account_id": id, "task_id": task, "kind": kind, "amount": amount, "at": self._at()}
            self.rows["entries"].append(row | {name: account[name] for name in names})

    def _event(self, task: dict[str, Any], word: str) -> None:
        task["sequence"] = task.get("sequence", 0) + 1
        row = {"task_id": task["id"], "sequence": task["sequence"], "type": f"image.generation.{word}"}
        self.rows["events"].append(row | {"at": self._at()})
        if word in self.hears.get(operation := task["id"].removeprefix("task_"), ()):
            self._tell(task, f"/tasks/{operation}", word, self._secret(task["key_id"], None))
        if word in self.endpoints.get(task["key_id"], ()):
            # It did not want it at first.
            words = self.endpoints[task["key_id"]]
            self._tell(task, f"/keys/{task['key_id']}", word, self._secret(task["key_id"], words), 500)
            self._tell(task, f"/keys/{task['key_id']}", word, self._secret(task["key_id"], words))

    def _hook(self, key: str, words: tuple[str, ...] | None) -> None:
        hook = {"does": "hook", "name": key, "words": words, "secret": self._secret(key, words)}
        self.client.append({"at": self._time(), **hook})

    def _secret(self, key: str, words: tuple[str, ...] | None) -> str:
        return "whsec_" + base64.b64encode(f"{key} {words}".ljust(32).encode()).decode()

    def _tell(self, task: dict[str, Any], path: str, word: str, secret: str, status: int = 200) -> None:
        """A webhook of the last event of a task."""
        at, id = self._time(), f"evt_{task['id']}_{task['sequence']}"
        data = {"task_id": task["id"], "status": word if word in FINAL else "processing", "sequence": task["sequence"]}
        body = json.dumps({"id": id, "type": f"image.generation.{word}", "data": data})
        signature = Webhook(secret).sign(id, dt.datetime.fromtimestamp(int(at), dt.UTC), body)
        headers = {"id": id, "timestamp": str(int(at)), "signature": signature}
        self.sink.append({"at": at, "path": path, **headers, "body": body, "does": "takes", "status": status})

    def _time(self) -> float:
        self._now += 1
        return self._now

    def _at(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._time(), dt.UTC)


def _filled(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """The row with something in each column that must not be empty."""
    empty: dict[type, Any] = {
        int: 0,
        str: "",
        dict: {},
        list: [],
        dt.datetime: dt.datetime.fromtimestamp(BEGAN, dt.UTC),
    }
    return {
        column.name: {} if isinstance(column.type, JSON) else empty.get(column.type.python_type, WHENEVER)
        for column in table.columns
        if not column.nullable
    } | row


def clean() -> Past:
    """One of each: completed, cancelled in time and too late, refused, unknown, refused for its budget, never heard of.

    The key `lone` has a budget, and `first` and `second` share one with their owner. `first` has an endpoint, and the
    first three tasks have a webhook of their own.
    """
    past = Past()
    past.account("lone", budget=400_000, concurrent=1)
    past.account("owner:team", key=False, budget=1_000_000)
    past.account("first", budget=500_000)
    past.account("second")
    past.endpoint("first", "started", "completed", "cancelled")
    past.hears = {"1": ("started", "completed"), "2": FINAL, "3": ("started", *FINAL)}
    past.story("1", "first", "bytes", "completed", n=2, owner="team")
    past.sent("2", "lone", "job:1", unknown="ReadError")
    past.story("2", "lone", "job:1", "completed")
    past.story("3", "lone", "refuse", "refused")
    past.story("4", "second", "drop", "unknown", owner="team")
    past.story("5", "lone", "never", "cancelled")
    past.story("6", "first", "job:2", "too late", owner="team")
    past.story("7", "lone", "drop", "expired")
    past.sent("8", "lone", "bytes", status=429, code="insufficient_quota", task=None)
    past.sent("9", "lone", "bytes", unknown="ConnectError")
    past.story("10", "lone", "urls", "completed", n=3)
    past.client = [line for line in past.client if line.get("op") != "10"]
    past.sent("10", "lone", "urls", unknown="RemoteProtocolError")
    return past
