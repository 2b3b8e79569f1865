"""The adapter to the scripted vendor: as plain as an adapter can be."""

from __future__ import annotations

import base64

import msgspec

from providers.contract import Broken, Done, Order, Output, Pending, Provider


class Answer(msgspec.Struct):
    """What the vendor answers to a submit and to a look at a job."""

    job: str | None = None
    state: str = "done"
    progress: float | None = None
    images: list[str] = []
    urls: list[str] = []


class Scripted(Provider):
    """Sends the script along and hands back what comes."""

    async def submit(self, order: Order) -> Pending | Done:
        """Sends the order."""
        body = {
            "key": order.idempotency_key,
            "prompt": order.generation.prompt,
            "n": order.generation.n,
            "size": order.generation.size or "64x64",
            "script": order.generation.extras.get("script", ""),
        }
        headers = {"authorization": f"Bearer {self.http.secrets['api_key']}"}
        answer = await self.http.request("POST", "/submit", Answer, paid=True, json=body, headers=headers)
        return self._read(answer)

    async def poll(self, job: str) -> Pending | Done:
        """Looks at a job."""
        return self._read(await self.http.request("GET", f"/jobs/{job}", Answer, paid=False))

    async def cancel(self, job: str) -> None:
        """Stops a job."""
        await self.http.send("POST", f"/jobs/{job}/cancel", paid=False)

    async def probe(self) -> None:
        """Asks for the ledger, which is free."""
        await self.http.send("GET", "/ledger", paid=False)

    def _read(self, answer: Answer) -> Pending | Done:
        if answer.state == "failed":
            raise Broken("The script says that the job fails.")
        if answer.state == "running":
            return Pending(answer.job or "", poll_after=0.2, progress=answer.progress)
        outputs = [Output(data=base64.b64decode(image)) for image in answer.images]
        return Done((*outputs, *(Output(url=url) for url in answer.urls)))
