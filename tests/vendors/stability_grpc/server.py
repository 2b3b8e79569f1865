"""A real gRPC server, made of the SDK's own servicer, which answers as it is told.

A call is handed over as the HTTP request that it is, its message as JSON by protobuf's mapping. The answer has the
messages of the stream as a JSON list, and in `grpc-status` and `grpc-message` how the stream ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
from google.protobuf import json_format
from stability_sdk.interfaces.gooseai.engines.engines_pb2 import Engines, ListEnginesRequest
from stability_sdk.interfaces.gooseai.generation.generation_pb2 import Answer
from stability_sdk.interfaces.gooseai.generation.generation_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)

GENERATION, ENGINES = "gooseai.GenerationService", "gooseai.EnginesService"
CODES = {code.value[0]: code for code in grpc.StatusCode}

Answering = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def serving(answering: Answering, tls: Any = None, *, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Listens, in clear or with these credentials, and yields the address. What `answering` raises is raised here."""
    engine = Engine(answering)
    # Else two servers could share a port, and a call would come to either.
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    add_GenerationServiceServicer_to_server(engine, server)
    listing = grpc.unary_unary_rpc_method_handler(
        engine.list_engines, ListEnginesRequest.FromString, Engines.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ENGINES, {"ListEngines": listing}),))
    address = f"{host}:0"
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await server.stop(None)
        for error in engine.errors:
            raise error


class Engine(GenerationServiceServicer):  # type: ignore[misc]  # the SDK has no types
    """The services, over what answers."""

    def __init__(self, answering: Answering) -> None:
        self.errors: list[Exception] = []
        self._answering = answering

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802 - the service's name for it
        """Streams the messages of the answer, and ends as it says."""
        messages, end = self._answer(f"/{GENERATION}/Generate", request, context)
        for message in messages:
            yield json_format.ParseDict(message, Answer())
        await finish(context, end)

    async def list_engines(self, request: Any, context: Any) -> Any:
        """Answers with the one message of the answer, if it ends well."""
        messages, end = self._answer(f"/{ENGINES}/ListEngines", request, context)
        await finish(context, end)
        return json_format.ParseDict(messages[0], Engines())

    def _answer(self, path: str, request: Any, context: Any) -> tuple[Sequence[Any], httpx.Headers]:
        headers = dict(context.invocation_metadata())
        message = json_format.MessageToDict(request, preserving_proto_field_name=True)
        try:
            answer = self._answering(httpx.Request("POST", f"http://engine{path}", headers=headers, json=message))
            return (answer.json() if answer.content else []), answer.headers
        except Exception as error:
            self.errors.append(error)
            raise


async def finish(context: Any, end: httpx.Headers) -> None:
    """Ends a call with the status that the headers name, well if they name none."""
    code = CODES[int(end.get("grpc-status", "0"))]
    if code is not grpc.StatusCode.OK:
        await context.abort(code, end.get("grpc-message", ""))
