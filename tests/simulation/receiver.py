"""The receiver of all webhooks of a seed: what arrived there, and which promises of it were not kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import RowMapping

if TYPE_CHECKING:
    from tests.simulation.world import World


class Arrival(NamedTuple):
    """One request that arrived, and whether it was taken."""

    url: str
    event_id: str
    body: str
    taken: bool


class Receiver:
    """Takes what comes, but for what the weather spoils."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.arrivals: list[Arrival] = []

    def hear(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status that answers a webhook."""
        taken = not self.world.weather.strikes("webhook.refused")
        self.arrivals.append(Arrival(url, headers["webhook-id"], body.decode(), taken))
        self.world.note("hook", f"{url} {headers['webhook-id']} {'is taken' if taken else 'is refused'}")
        return 200 if taken else 500


def of_webhooks(
    arrivals: Sequence[Arrival],
    endpoints: Sequence[RowMapping],
    deliveries: Sequence[RowMapping],
    events: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[str]:
    """Who wanted to hear of an event heard of it, in order, in the same words each time; and of nothing else."""
    made: dict[tuple[str, Any], list[RowMapping]] = defaultdict(list)
    # A task that was tried again goes where the first one went.
    urls, recorded = {row["id"]: row["url"] for row in endpoints}, set()
    for row in deliveries:
        made[row["endpoint_id"], row["task_id"]].append(row)
        recorded.add((urls[row["endpoint_id"]], row["event_id"], row["body"]))
        if row["state"] != "delivered":
            yield f"the delivery {row['id']} is {row['state']}"
    for one in arrivals:
        if one[:3] not in recorded:
            yield f"{one.url} heard of {one.event_id} what was never recorded"
    for endpoint in endpoints:
        here = [one for one in arrivals if one.url == endpoint["url"]]
        for task_id, of_task in events.items():
            mine = (
                bool(of_task) and of_task[0]["key_id"] == endpoint["key_id"] and endpoint["task_id"] in (None, task_id)
            )
            wanted = [row["sequence"] for row in of_task if mine and row["type"] in endpoint["event_types"]]
            yield from _of_task(task_id, wanted, made[endpoint["id"], task_id], here)


def _of_task(task_id: str, wanted: list[int], made: list[RowMapping], here: list[Arrival]) -> Iterator[str]:
    if sorted(row["sequence"] for row in made) != wanted:
        yield f"{task_id}: deliveries of {[row['sequence'] for row in made]}, and {wanted} was wanted"
    numbers = {row["event_id"]: row["sequence"] for row in made}
    heard = list(dict.fromkeys(numbers[one.event_id] for one in here if one.taken and one.event_id in numbers))
    if heard != sorted(numbers.values()):
        yield f"{task_id}: webhooks of {heard} came in, of {sorted(numbers.values())}"
