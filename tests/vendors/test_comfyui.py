"""ComfyUI: what its recordings do not show.

The recordings beside this file are of a server of version 0.33.0, with our own job's id in place of the one that it
had then, and so is what lies in `captured`: its definitions of nodes, what its socket told, its errors, its films, and
what it said after a restart. Written by hand after the sources are only the answers of an older server's missing
routes, of proxies, and `blocked.json`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web

from gateway.core.admission import open_catalog
from gateway.core.settings import load
from providers.card import CardError, ModelCard
from providers.contract import (
    Broken,
    Done,
    Generation,
    Input,
    Kind,
    Lost,
    Operation,
    Order,
    Output,
    Pending,
    Progress,
    Provider,
    ProviderError,
    Refused,
    Role,
    Unavailable,
    Unsure,
)
from providers.registry import Registry
from tests.contracts.test_provider import form_of
from tests.providers.sockets import Behaviour, answers_half, hangs_up, resets, says_nothing, upstream

HERE = Path(__file__).parent
REGISTRY = Registry.load()
SD15, SDXL = "v1-5-pruned-emaonly.safetensors", "sd_xl_base_1.0.safetensors"
PICTURE, MASK = (
    Input(Role.IMAGE, "image/jpeg", b"picture", 1000, 700),
    Input(Role.MASK, "image/png", b"mask", 1000, 700),
)
DEFINITIONS: dict[str, Any] = json.loads((HERE / "comfyui/captured/object_info.json").read_bytes())
SOCKETS: dict[str, Any] = json.loads((HERE / "comfyui/captured/previews.json").read_bytes())
ERRORS: dict[str, Any] = json.loads((HERE / "comfyui/captured/errors.json").read_bytes())
FILMS: dict[str, Any] = json.loads((HERE / "comfyui/captured/films.json").read_bytes())
RESTART: dict[str, Any] = json.loads((HERE / "comfyui/captured/restart.json").read_bytes())
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "own"}, "_meta": {"title": "x"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "the workflow's own", "clip": ["9", 1]}},
    "4": {"class_type": "LoadImage", "inputs": {"image": "own.png"}},
    "5": {"class_type": "LoadImage", "inputs": {"image": "own.png"}},
    "9": {"class_type": "KSampler", "inputs": {"seed": 1, "cfg": 2.0}},
}
FILM: dict[str, Any] = {
    **FILMS["mp4"]["job"]["workflow"]["prompt"],
    "5": {"class_type": "CLIPTextEncode", "inputs": {"text": "the workflow's own", "clip": ["9", 1]}},
}
CHOICE: dict[str, Any] = {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.ckpt"}}}
EDITORS: dict[str, Any] = {
    "id": "5b7e", "revision": 0, "last_node_id": 2, "last_link_id": 1, "version": 0.4,
    "nodes": [{"id": 1, "type": "EmptyImage", "widgets_values": [64, 48, 1, 0]}, {"id": 2, "type": "SaveImage"}],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]], "groups": [], "config": {}, "extra": {},
}  # fmt: skip
"""A workflow as the editor saves it."""
Handler = Callable[[httpx.Request], httpx.Response]


def model(name: str = "mine", **members: Any) -> ModelCard:
    """A model of one's own, as heliograph.toml gives it."""
    raw = {"kind": "image", "operations": ["generation"], "options": {"generation": {"workflow": GRAPH}}}
    return msgspec.convert({"name": name, **raw, **members}, ModelCard)


def planned(**members: Any) -> ModelCard:
    """A model of one's own with this plan for generations."""
    return model(options={"generation": {"workflow": GRAPH, **members}})


@asynccontextmanager
async def comfyui(
    handler: Handler | None = None,
    *models: ModelCard,
    key: str | None = None,
    base_url: str | None = None,
    timeout: float = 5.0,
) -> AsyncIterator[Provider]:
    """The provider over a handler, or over real connections."""
    card = REGISTRY.cards["comfyui"]
    card = msgspec.structs.replace(card, models=(*card.models, *models), timeout=timeout)
    transport = httpx.MockTransport(handler) if handler else None
    secrets = {"api_key": key} if key else {}
    provider = REGISTRY.build("comfyui", card, base_url=base_url, secrets=secrets, transport=transport)
    try:
        yield provider
    finally:
        await provider.http.close()


def order(name: str = SD15, *inputs: Input, key: str = "attempt-1", **members: Any) -> Order:
    """An order of these members; an edit when it has inputs."""
    operation = Operation.EDIT if inputs else Operation.GENERATION
    wanted = {"kind": Kind.IMAGE, "operation": operation, "model": name, "prompt": "a fox", **members}
    return Order(Generation(**wanted), name, key, inputs=inputs)


class Server:
    """Takes every prompt and every file, and keeps what it got."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path == "/upload/image":
            number = sum(one.url.path == "/upload/image" for one in self.requests)
            return httpx.Response(200, json={"name": f"{number}.png", "subfolder": "heliograph", "type": "input"})
        if request.url.path == "/prompt":
            answer = {"prompt_id": json.loads(request.content)["prompt_id"], "number": 1, "node_errors": {}}
            return httpx.Response(200, json=answer)
        return httpx.Response(404, json={"error": "Job not found"})

    def prompts(self) -> list[dict[str, Any]]:
        """The bodies of the prompts."""
        return [json.loads(one.content) for one in self.requests if one.url.path == "/prompt"]


async def sent(wanted: Order, *models: ModelCard) -> dict[str, Any]:
    """The inputs of every node that an order sends, by the node's id."""
    server = Server()
    async with comfyui(server, *models) as provider:
        await provider.submit(wanted)
    (body,) = server.prompts()
    return {node: step["inputs"] for node, step in body["prompt"].items()}


def check_fits(graph: Mapping[str, Any]) -> None:
    """Fails unless the server has every node and input of a graph, of the right types and within their bounds."""
    for step in graph.values():
        definition = DEFINITIONS[step["class_type"]]["input"]
        offered = definition["required"] | definition.get("optional", {})
        assert set(definition["required"]) <= set(step["inputs"]) <= set(offered)
        for name, value in step["inputs"].items():
            kind, *rest = offered[name]
            limits = rest[0] if rest else {}
            if isinstance(value, list):
                assert DEFINITIONS[graph[value[0]]["class_type"]]["output"][value[1]] == kind
            elif isinstance(kind, list) or kind == "COMBO":
                # The lists of files are those of a server that had none.
                choices = kind if isinstance(kind, list) else limits["options"]
                assert value in choices or not choices
            elif kind in ("INT", "FLOAT"):
                assert limits["min"] <= value <= limits["max"]
                assert kind == "FLOAT" or value % limits.get("step", 1) == 0
            else:
                assert (kind, type(value)) == ("STRING", str)


@pytest.mark.parametrize("name", [SD15, SDXL])
@pytest.mark.parametrize("inputs", [(), (PICTURE,), (PICTURE, MASK)])
async def test_the_built_in_workflows_are_ones_that_a_server_takes(name: str, inputs: tuple[Input, ...]) -> None:
    """Each of them, filled with an order, passes what the recorded definitions of a real server demand."""
    server = Server()
    async with comfyui(server) as provider:
        await provider.submit(order(name, *inputs, n=3, parameters={"sampler": "dpmpp_2m", "scheduler": "karras"}))
    (body,) = server.prompts()
    check_fits(body["prompt"])
    assert any(DEFINITIONS[step["class_type"]]["output_node"] for step in body["prompt"].values())


async def test_every_value_of_the_card_is_one_of_the_servers() -> None:
    """The samplers and schedulers that the card offers are those of the server, and its bounds are within."""
    theirs = DEFINITIONS["KSampler"]["input"]["required"]
    for card in REGISTRY.cards["comfyui"].models:
        assert list(card.parameters["sampler"].values) == theirs["sampler_name"][0]
        assert list(card.parameters["scheduler"].values) == theirs["scheduler"][0]
        for name in ("seed", "steps", "cfg_scale", "denoise"):
            ours, limits = card.parameters[name], theirs[card.parameters[name].sent_as or name][1]
            assert limits["min"] <= (ours.min or 0) < (ours.max or 0) <= limits["max"]


async def test_what_is_not_asked_for_is_as_the_model_has_it() -> None:
    """The size is the card's own, everything else stays as it stands in the workflow, but for the seed."""
    nodes = await sent(order(SDXL))
    assert (nodes["5"]["width"], nodes["5"]["height"], nodes["5"]["batch_size"]) == (1024, 1024, 1)
    assert (nodes["4"]["ckpt_name"], nodes["6"]["text"], nodes["7"]["text"]) == (SDXL, "a fox", "")
    assert (nodes["3"]["steps"], nodes["3"]["cfg"], nodes["3"]["sampler_name"]) == (20, 7.0, "euler")


async def test_each_order_has_a_seed_of_its_own() -> None:
    """The seed and the file names differ between attempts and not within one; a seed that was asked for counts."""
    seeds = [(await sent(order(key=key)))["3"]["seed"] for key in ("a", "a", "b")]
    assert seeds[0] == seeds[1] != seeds[2]
    prefixes = [(await sent(order(key=key)))["9"]["filename_prefix"] for key in ("a", "b")]
    assert prefixes[0] != prefixes[1]
    assert (await sent(order(parameters={"seed": 0})))["3"]["seed"] == 0


@pytest.mark.parametrize(
    ("name", "size", "picture", "made"),
    [
        (SD15, None, (1000, 700), (1000, 696)),
        (SD15, None, (4000, 3000), (1176, 880)),
        (SD15, None, (100, 50), (512, 256)),
        (SD15, None, (8000, 100), (1536, 256)),
        (SDXL, None, (1024, 1024), (1024, 1024)),
        (SDXL, None, (6000, 6000), (1536, 1536)),
        (SD15, "512x768", (1000, 700), (512, 768)),
    ],
)
async def test_an_edit_has_the_pictures_size(
    name: str, size: str | None, picture: tuple[int, int], made: tuple[int, int]
) -> None:
    """An edit is made as large as its picture, as far as the model goes, or as it was asked for."""
    nodes = await sent(order(name, msgspec.structs.replace(PICTURE, width=picture[0], height=picture[1]), size=size))
    assert (nodes["13"]["width"], nodes["13"]["height"]) == made
    rule = REGISTRY.cards["comfyui"].models[0 if name == SD15 else 1].size_rule
    assert rule is not None
    assert made[0] * made[1] <= rule.max_pixels
    assert all(rule.min_edge <= edge <= rule.max_edge and edge % 8 == 0 for edge in made)


async def test_an_edit_uploads_its_inputs_first() -> None:
    """Picture and mask travel as files named by their content, and the workflow loads what the server made of that."""
    server = Server()
    async with comfyui(server, key="secret") as provider:
        await provider.submit(order(SD15, MASK, PICTURE, n=2))
    assert [one.url.path for one in server.requests] == ["/upload/image", "/upload/image", "/prompt"]
    assert {one.headers["authorization"] for one in server.requests} == {"Bearer secret"}
    for request in server.requests[:2]:
        assert form_of(request) == {"image": None, "type": "input", "subfolder": "heliograph"}
    nodes = {node: step["inputs"] for node, step in server.prompts()[0]["prompt"].items()}
    assert [nodes["14"]["image"], nodes["10"]["image"]] == ["heliograph/1.png", "heliograph/2.png"]
    assert (nodes["14"]["channel"], nodes["12"]["amount"]) == ("alpha", 2)


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        (order(parameters={"denoise": 0.5}), "denoise"),
        (order(SD15, PICTURE, MASK, parameters={"denoise": 0.5}), "denoise"),
        (order(SD15, PICTURE, PICTURE), "image"),
        (order(SD15, MASK), "image"),
        (order(SD15, PICTURE, Input(Role.STYLE, "image/png", b"", 1, 1)), "style"),
        (order(SD15, PICTURE, operation=Operation.GENERATION), "image"),
        (order("mine", size="512x512", prompt=""), "size"),
        (order("mine", aspect_ratio="1:1", prompt=""), "aspect_ratio"),
        (order("mine"), "prompt"),
    ],
)
async def test_what_a_workflow_has_no_place_for_is_refused(wanted: Order, param: str) -> None:
    """Nothing that was asked for is dropped in silence, and nothing is sent for it."""
    server = Server()
    async with comfyui(server, model()) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(wanted)
    assert (caught.value.param, server.requests) == (param, [])


async def test_a_workflow_for_masks_alone_asks_for_one() -> None:
    """A model whose only workflow is for inpainting refuses an edit without a mask, by that name."""
    masked = model(operations=["edit"], options={"inpaint": {"workflow": "inpaint"}})
    async with comfyui(Server(), masked) as provider:
        await provider.submit(order("mine", PICTURE, MASK))
        with pytest.raises(Refused) as caught:
            await provider.submit(order("mine", PICTURE))
    assert caught.value.param == "mask"


async def test_a_workflow_of_ones_own_is_filled_by_its_map() -> None:
    """The map of Open WebUI does here what it does there: ids as a list or a text, default keys, values of its own."""
    nodes = [
        {"type": "prompt", "node_ids": "3"},
        {"type": "width", "key": "width", "node_ids": ["1"]},
        {"type": "height", "node_ids": [1]},
        {"type": "n", "node_ids": ["1"]},
        {"type": "seed", "node_ids": "9, "},
        {"type": "cfg", "node_ids": ["9"]},
        {"type": "model", "key": "ckpt_name", "node_ids": []},
        {"type": None, "key": "color", "node_ids": ["1"], "value": "7"},
    ]
    parameters = {"cfg_scale": {"type": "number", "sent_as": "cfg"}}
    own = model(
        max_n=4,
        size_rule={},
        parameters=parameters,
        options={"generation": {"workflow": json.dumps(GRAPH), "nodes": nodes}},
    )
    asked = order("mine", n=3, size="640x480", parameters={"cfg_scale": 4.5})
    filled = await sent(asked, own)
    assert filled["1"] == {"width": 640, "height": 480, "batch_size": 3, "color": "7"}
    assert (filled["3"]["text"], filled["9"]["cfg"]) == ("a fox", 4.5)
    assert filled["9"]["seed"] not in (0, 1)
    assert filled["2"]["filename_prefix"] == "own"
    assert (await sent(order("mine", prompt=""), own))["3"]["text"] == "the workflow's own"


async def test_pictures_go_to_the_nodes_one_by_one() -> None:
    """The i-th picture goes to the i-th node; a node too many keeps its own."""
    plan = {
        "workflow": GRAPH,
        "nodes": [{"type": "image", "node_ids": ["4", "5"]}, {"type": "prompt", "node_ids": "3"}],
    }
    two = model(operations=["edit"], options={"edit": plan})
    nodes = await sent(order("mine", PICTURE, PICTURE), two)
    assert [nodes[node]["image"] for node in "45"] == ["heliograph/1.png", "heliograph/2.png"]
    nodes = await sent(order("mine", PICTURE), two)
    assert [nodes[node]["image"] for node in "45"] == ["heliograph/1.png", "own.png"]


async def test_a_workflow_is_read_from_a_file(tmp_path: Path) -> None:
    """A file may hold the graph as it was exported, or a graph with its map, to which the model's own map is added."""
    bare, whole = tmp_path / "bare.json", tmp_path / "whole.json"
    bare.write_text(json.dumps(GRAPH))
    whole.write_text(json.dumps({"workflow": GRAPH, "nodes": [{"type": "prompt", "node_ids": ["3"]}]}))
    colour = {"key": "color", "node_ids": ["1"], "value": 9}
    for path, nodes in ((bare, [{"type": "prompt", "node_ids": ["3"]}, colour]), (whole, [colour])):
        own = model(options={"generation": {"workflow": str(path), "nodes": nodes}})
        filled = await sent(order("mine"), own)
        assert (filled["3"]["text"], filled["1"]["color"]) == ("a fox", 9)


def film(**members: Any) -> ModelCard:
    """A model of one's own that makes films, of a text and of a picture."""
    nodes = [
        {"type": "prompt", "node_ids": ["5"]},
        {"type": "width", "node_ids": ["1"]},
        {"type": "height", "node_ids": ["1"]},
        {"type": "frames", "key": "batch_size", "node_ids": ["1"]},
        {"type": "fps", "node_ids": ["2"]},
    ]
    plan = {"workflow": FILM, "nodes": nodes, "fps": 16, **members}
    of_picture = FILM | {
        "1": {"class_type": "LoadImage", "inputs": {"image": "", "length": 1, "width": 1, "height": 1}}
    }
    picture = {"type": "first_frame", "node_ids": ["1"]}
    length = {"type": "frames", "key": "length", "node_ids": ["1"]}
    parameters = {"seconds": {"type": "integer", "values": [2, 5], "default": 2, "sent_as": "frames"},
                  "fps": {"type": "integer", "min": 1, "max": 60}}  # fmt: skip
    begun = {"workflow": of_picture, "nodes": [*nodes[:3], nodes[4], picture, length], "fps": 16}
    return model(
        kind="video",
        parameters=parameters,
        inputs={"first_frame": {"max": 1}},
        sizes=["832x480"],
        default_size="832x480",
        size_rule={"multiple_of": 16, "max_pixels": 832 * 480},
        options={"generation": plan, "image_to_video": begun},
    )


@pytest.mark.parametrize(
    ("parameters", "frames", "fps"), [({}, 8, 8.0), ({"seconds": 5}, 81, 8.0), ({"seconds": 2, "fps": 24}, 49, 24)]
)
async def test_a_film_is_made_of_a_text(parameters: dict[str, Any], frames: int, fps: float) -> None:
    """Its length in seconds becomes the number of its frames; what is not asked for is as the workflow has it."""
    nodes = await sent(order("mine", kind=Kind.VIDEO, parameters=parameters), film())
    assert nodes["1"] == {"width": 832, "height": 480, "batch_size": frames, "color": 1122867}
    assert (nodes["2"]["fps"], nodes["5"]["text"]) == (fps, "a fox")


async def test_a_film_is_described_in_a_file(tmp_path: Path) -> None:
    """A file with a whole plan may say how many frames its film has in a second, and the model's own plan another."""
    path = tmp_path / "film.json"
    path.write_text(json.dumps({"workflow": FILM, "fps": 8}))
    nodes = await sent(order("mine", kind=Kind.VIDEO, parameters={"seconds": 5}), film(workflow=str(path), fps=None))
    assert nodes["1"]["batch_size"] == 41
    nodes = await sent(order("mine", kind=Kind.VIDEO, parameters={"seconds": 5}), film(workflow=str(path)))
    assert nodes["1"]["batch_size"] == 81


async def test_a_film_begins_with_a_picture() -> None:
    """An order with a first frame goes through the workflow that loads it, and the film has the picture's shape."""
    first = Input(Role.FIRST_FRAME, "image/png", b"picture", 960, 1664)
    wanted = order("mine", first, kind=Kind.VIDEO, operation=Operation.GENERATION, parameters={"seconds": 2, "fps": 8})
    nodes = await sent(wanted, film())
    assert nodes["1"] == {"image": "heliograph/1.png", "length": 17, "width": 480, "height": 832}
    assert (nodes["2"]["fps"], nodes["5"]["text"]) == (8, "a fox")


@pytest.mark.parametrize("role", [Role.LAST_FRAME, Role.IMAGE])
async def test_a_film_takes_no_picture_that_it_has_no_place_for(role: Role) -> None:
    """A picture of another role than its workflow loads is refused by that role, and nothing is sent."""
    server = Server()
    first, other = (Input(one, "image/png", b"picture", 64, 64) for one in (Role.FIRST_FRAME, role))
    async with comfyui(server, film()) as provider:
        with pytest.raises(Refused) as caught:
            await provider.submit(order("mine", first, other, kind=Kind.VIDEO, operation=Operation.GENERATION))
    assert (caught.value.param, server.requests) == (role.value, [])


def installed(*checkpoints: str, **classes: Any) -> Handler:
    """A server with these checkpoints, and with further definitions; a class that is None it has not."""
    loader = {"input": {"required": {"ckpt_name": [list(checkpoints), {"tooltip": "x"}]}}}
    offered = DEFINITIONS | {"CheckpointLoaderSimple": loader} | classes
    answer = {name: one for name, one in offered.items() if one is not None}

    def server(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", "/object_info")
        return httpx.Response(200, json=answer)

    return server


async def listed(handler: Handler, *models: ModelCard) -> dict[str, ModelCard]:
    """The models that a server has, by their names."""
    async with comfyui(handler, *models) as provider:
        return {one.name: one for one in await provider.models()}


async def test_models_are_those_whose_checkpoints_are_installed() -> None:
    """Of the card's models those are told whose file the server has, as the card has them."""
    cards = {one.name: one for one in REGISTRY.cards["comfyui"].models}
    assert await listed(installed()) == {}
    assert await listed(installed("other.ckpt", SDXL)) == {SDXL: cards[SDXL]}
    assert await listed(installed(SD15, SDXL)) == cards
    assert REGISTRY.cards["comfyui"].lists_models


async def test_a_model_takes_the_values_that_its_server_has() -> None:
    """A value that the server lacks is not offered; without a node that a workflow needs the model is not there."""
    sampler = json.loads(json.dumps(DEFINITIONS["KSampler"]))
    sampler["input"]["required"]["sampler_name"][0] = ["lcm", "euler", "of a custom node"]
    (card,) = (await listed(installed(SD15, KSampler=sampler))).values()
    assert card.parameters["sampler"].values == ("euler", "lcm")
    sampler["input"]["required"]["sampler_name"][0] = ["lcm"]
    assert await listed(installed(SD15, KSampler=sampler)) == {}
    assert await listed(installed(SD15, ImageScale=None)) == {}


def chooser(**parameter: Any) -> ModelCard:
    """A model of one's own whose caller chooses the checkpoint."""
    nodes = [{"type": "checkpoint", "key": "ckpt_name", "node_ids": ["4"]}]
    return model(
        parameters={"checkpoint": {"type": "string", **parameter}},
        options={"generation": {"workflow": CHOICE, "nodes": nodes}},
    )


async def test_a_parameter_without_values_gets_those_that_are_installed() -> None:
    """A checkpoint that the caller chooses is one of the server's, and so is the workflow's if it may be left out."""
    found = await listed(installed("a.ckpt", "b.ckpt"), chooser())
    assert found["mine"].parameters["checkpoint"].values == ("a.ckpt", "b.ckpt")
    found = await listed(installed("a.ckpt", "b.ckpt"), chooser(values=["b.ckpt", "c.ckpt"]))
    assert found["mine"].parameters["checkpoint"].values == ("b.ckpt",)
    assert await listed(installed("b.ckpt"), chooser()) == {}
    found = await listed(installed("b.ckpt"), chooser(required=True))
    assert found["mine"].parameters["checkpoint"].values == ("b.ckpt",)
    assert await listed(installed("b.ckpt"), chooser(required=True, values=["c.ckpt"])) == {}


@pytest.mark.parametrize(
    ("said", "there"),
    [
        ([["own.pth"]], True),
        (["COMBO", {"multiselect": False, "options": ["own.pth"]}], True),
        (["COMBO", {"multiselect": False, "options": []}], False),
        ([[], {}], False),
        ([[], {"image_upload": True}], True),
        (["COMBO", {"multiselect": True, "options": []}], True),
        (["COMBO", {"remote": {"route": "/x"}}], True),
        (["STRING", {"options": 3}], True),
        (["STRING"], True),
        ([], True),
        ([{}], True),
        ("STRING", True),
        (None, True),
    ],
)
async def test_what_a_node_takes_is_read_in_every_form(said: Any, there: bool) -> None:
    """Lists stand in place of a type, or beside it; files that an order uploads and what has no list are no matter."""
    graph = {"1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "own.pth"}}}
    own = model(options={"generation": {"workflow": graph}})
    for part in ("required", "optional"):
        definition = {"input": {part: {"model_name": said}, "hidden": ["x"]}}
        assert bool(await listed(installed(UpscaleModelLoader=definition), own)) is there


async def test_a_strange_node_hides_no_model() -> None:
    """Definitions of custom nodes are as their authors like, and no model is missed for that."""
    strange = {"A": {}, "B": {"input": None}, "C": {"input": {"required": []}}, "D": {"input": "x", "output": 3}}
    assert set(await listed(installed(SD15, **strange))) == {SD15}
    graph = {str(place): {"class_type": name, "inputs": {"x": 1}} for place, name in enumerate(strange)}
    assert set(await listed(installed(**strange), model(options={"generation": {"workflow": graph}}))) == {"mine"}


@pytest.mark.parametrize("answer", [httpx.Response(200, json=[]), httpx.Response(200, text="<html>")])
async def test_no_models_are_read_from_nonsense(answer: httpx.Response) -> None:
    """Something else than a list of nodes is told as an error, and not as a server without models."""
    with pytest.raises(Broken):
        await listed(lambda request: answer)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (planned(workflow="no/such/file.json"), "there is no file no/such/file.json"),
        (planned(workflow="txt2vid"), "there are img2img, inpaint, txt2img"),
        (planned(workflow='{"1": '), "is no JSON object"),
        (planned(workflow=EDITORS), "the editor's own format"),
        (planned(workflow=json.dumps(EDITORS)), "export the workflow in API format"),
        (planned(workflow={"workflow": EDITORS, "nodes": []}), "export the workflow in API format"),
        (planned(workflow={"1": {"inputs": {}}}), "class_type"),
        (planned(nodes=[{"type": "prompt", "node_ids": ["7"]}]), "no node 7; there are 1, 2, 3, 4, 5, 9"),
        (planned(nodes=[{"type": "prompt", "key": "txt", "node_ids": ["3"]}]), "no input txt; it has text, clip"),
        (planned(nodes=[{"type": "model", "node_ids": ["3"]}]), "no input model"),
        (planned(nodes=[{"type": "colour", "key": "color", "node_ids": ["1"]}]), "nothing is of type colour"),
        (planned(nodes=[{"tpye": "prompt", "node_ids": ["3"]}]), "tpye"),
        (planned(outputs=["8"]), "no node 8"),
        (planned(output="2"), "output"),
        (model(options={}), "options.generation has to name its workflow"),
        (model(options={"generate": {"workflow": GRAPH}}), "options has generate"),
        (model(operations=["generation", "edit"]), "options.edit"),
        (model(parameters={"cfg": {"type": "number"}}), "no node takes the parameter cfg"),
        (model(max_n=2), "n_per_call = 1"),
        (model(inputs={"image": {"max": 2}}), "inputs.image takes up to 2, and no workflow more than 0"),
        (film(fps=0), "fps"),
    ],
)
async def test_a_configuration_that_cannot_work_stops_the_start(wrong: ModelCard, words: str) -> None:
    """What does not fit together is told when the provider is built, with the place."""
    with pytest.raises(CardError, match="comfyui, model mine") as caught:
        async with comfyui(Server(), wrong):
            pass
    assert words in str(caught.value)


async def test_several_servers_are_routes_of_one_model(tmp_path: Path) -> None:
    """Two servers in heliograph.toml serve a model of one's own by turns, each at its own address."""
    (tmp_path / "flux.json").write_text(json.dumps(GRAPH))
    server = f"""
        vendor = "comfyui"
        models.flux = {{ kind = "image", operations = ["generation"], options.generation = {{ workflow = '{tmp_path}/flux.json', nodes = [{{ type = "prompt", node_ids = ["3"] }}] }}, price = {{ as_of = 2026-11-21, rows = [{{ usd = "0" }}] }} }}
    """  # noqa: E501 - an inline table of TOML is one line
    config = tmp_path / "heliograph.toml"
    config.write_text(
        f'[providers.one]\nbase_url = "http://10.0.0.1:8188"\n{server}\n'
        f'[providers.two]\nbase_url = "http://10.0.0.2:8188"\n{server}\n'
        '[models.flux]\nroutes = [{ provider = "one", model = "flux", order = 0 }, '
        '{ provider = "two", model = "flux", order = 0, weight = 3 }]\n'
    )
    catalog = open_catalog(load({}, config))
    routes = catalog.model("flux").routes
    assert [(one.provider, one.order, one.weight) for one in routes] == [("one", 0, 1), ("two", 0, 3)]
    addresses = [catalog.providers[one.provider].http.base_url for one in routes]
    assert addresses == ["http://10.0.0.1:8188", "http://10.0.0.2:8188"]
    await catalog.close()


@pytest.mark.parametrize(("key", "header"), [(None, None), ("k", "Bearer k"), ("Basic dTpw", "Basic dTpw")])
async def test_the_key_is_for_a_proxy(key: str | None, header: str | None) -> None:
    """A key is sent as a bearer, a whole header as it is, and without one there is no header."""
    server = Server()
    async with comfyui(server, key=key) as provider:
        await provider.submit(order())
    assert server.requests[0].headers.get("authorization") == header


async def test_more_than_a_workflow_makes_takes_several_prompts() -> None:
    """Each of them has an id and a seed of its own, and they are found, and found in part, by the same ids."""
    own = model(
        max_n=3,
        n_per_call=1,
        parameters={"seed": {"type": "integer"}},
        options={"generation": {"workflow": GRAPH, "nodes": [{"type": "seed", "node_ids": ["9"]}]}},
    )
    server, wanted = Server(), order("mine", n=3, prompt="", parameters={"seed": 5})
    known: set[str] = set()

    def remembers(request: httpx.Request) -> httpx.Response:
        job = request.url.path.rpartition("/")[2]
        return httpx.Response(200, json={"id": job, "status": "pending"}) if job in known else server(request)

    async with comfyui(remembers, own) as provider:
        assert await provider.find(wanted) is None
        pending = await provider.submit(wanted)
        assert isinstance(pending, Pending)
        prompts = server.prompts()
        assert [one["prompt"]["9"]["inputs"]["seed"] for one in prompts] == [5, 6, 7]
        ids = [one["prompt_id"] for one in prompts]
        assert (len(set(ids)), json.loads(pending.job)) == (3, ids)
        known.update(ids[1:])
        found = await provider.find(wanted)
    assert isinstance(found, Pending)
    assert json.loads(found.job) == ids[1:]


def finished(outputs: dict[str, Any], **members: Any) -> Handler:
    """A server where every job is done with these outputs."""
    return lambda request: httpx.Response(
        200, json={"id": "x", "status": "completed", "outputs": outputs, "workflow": None, **members}
    )


def file(name: str, type: str = "output", subfolder: str = "") -> dict[str, str]:
    """A file as a server names it."""
    return {"filename": name, "subfolder": subfolder, "type": type}


async def collected(handler: Handler) -> list[tuple[str, str | None]]:
    """Names and media types of what a job has made."""
    async with comfyui(handler) as provider:
        done = await provider.poll("x")
    assert isinstance(done, Done)
    assert done.cost == 0
    return [(httpx.URL(one.url or "").params["filename"], one.media_type) for one in done.outputs]


async def test_every_kind_of_file_is_an_output() -> None:
    """Pictures, films and whatever a node calls them are found, without texts, latents and flags."""
    outputs = {
        "7": {"images": [file("a.mp4"), file("b.webp")], "animated": [True]},
        "8": {"gifs": [{**file("c.webm"), "format": "video/webm", "fullpath": "/srv/c.webm"}], "text": ["hello"]},
        "9": {"latents": [None, 3, {}], "result": "x"},
    }
    assert await collected(finished(outputs)) == [
        ("a.mp4", "video/mp4"),
        ("b.webp", "image/webp"),
        ("c.webm", "video/webm"),
    ]


async def test_a_file_is_one_output_however_often_it_is_named() -> None:
    """Some nodes name a film under two keys, and what is neither picture nor film, such as sound, is no output."""
    film = file("a.mp4") | {"format": "video/h264-mp4", "frame_rate": 16.0}
    outputs = {"8": {"videos": [film], "gifs": [film]}, "9": {"audio": [file("a.flac")], "3d": [file("a.glb")]}}
    assert await collected(finished(outputs)) == [("a.mp4", "video/mp4")]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (Kind.IMAGE, ["last.png", "moving.webp"]),
        (Kind.VIDEO, ["film.mp4", "film.WEBM"]),
        (None, ["film.mp4", "film.WEBM", "last.png", "moving.webp"]),
    ],
)
async def test_outputs_are_of_the_kind_that_was_ordered(kind: Kind | None, names: list[str]) -> None:
    """A film's workflow that saves a picture beside it yields the film alone. The order's kind travels with the job."""
    outputs = {"1": {"images": [file(name) for name in ("film.mp4", "film.WEBM", "last.png", "moving.webp")]}}
    extra: dict[str, Any] = {}
    if kind is not None:
        server = Server()
        async with comfyui(server, model(kind=kind)) as provider:
            await provider.submit(order("mine", kind=kind, prompt=""))
        extra = server.prompts()[0]["extra_data"]
    answer = finished(outputs, workflow={"prompt": {"1": {}}, "extra_data": extra})
    assert [name for name, _ in await collected(answer)] == names


async def test_an_animated_picture_is_a_film_when_there_is_no_other() -> None:
    """A film's workflow that saves it as a moving picture has it delivered, as what it is by its name."""
    extra = {"heliograph": {"kind": "video", "outputs": []}}
    answer = finished({"1": {"images": [file("a.webp")]}}, workflow={"prompt": {"1": {}}, "extra_data": extra})
    assert await collected(answer) == [("a.webp", "image/webp")]


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(("name", "media_type"), [(one, film["view"]["type"]) for one, film in FILMS.items()])
async def test_a_film_that_a_real_server_made_is_read(name: str, media_type: str, older: bool) -> None:
    """Its job, as newer and as older servers tell it, leads to the file that the server gave, of the type it said."""
    film = FILMS[name]
    (job,) = film["history"]
    data = bytes.fromhex(film["view"]["head"]).ljust(film["view"]["bytes"], b".")

    def server(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/view":
            wanted = dict(httpx.URL(film["view"]["path"]).params)
            assert {key: value for key, value in request.url.params.items() if value} == wanted
            return httpx.Response(200, content=data)
        if older:
            known = {"/queue": RESTART["queue"]["json"], f"/history/{job}": film["history"]}
            return httpx.Response(200, json=known[path]) if path in known else httpx.Response(404, text="Not Found")
        assert path == f"/api/jobs/{job}"
        return httpx.Response(200, json=film["job"])

    async with comfyui(server) as provider:
        done = await provider.poll(job)
        assert isinstance(done, Done)
        (output,) = done.outputs
        assert output.media_type == media_type
        assert b"".join([chunk async for chunk in provider.read(output)]) == data


async def test_files_come_in_the_order_of_the_workflow() -> None:
    """The nodes' order is that of the workflow and not that in which they ran; others come last."""
    outputs = {"x:1": {"images": [file("c.png")]}, "9": {"images": [file("b.png")]}, "12": {"images": [file("a.png")]}}
    known: dict[str, Any] = {"prompt": {"12": {}, "9": {}}, "extra_data": {}}
    assert [name for name, _ in await collected(finished(outputs, workflow=known))] == ["a.png", "b.png", "c.png"]


async def test_previews_count_only_when_there_is_nothing_else() -> None:
    """Files that a node only shows are left out beside saved ones, and taken when they are all."""
    shown = {"1": {"images": [file("shown.png", "temp")]}}
    assert [name for name, _ in await collected(finished(shown))] == ["shown.png"]
    both = shown | {"2": {"images": [file("saved.png")]}}
    assert [name for name, _ in await collected(finished(both))] == ["saved.png"]


async def test_the_nodes_whose_outputs_count_travel_with_the_job() -> None:
    """Outputs named in the plan are sent along, come back with the job, and are then the only ones, in that order."""
    server = Server()
    async with comfyui(server, planned(outputs=["9", 2])) as provider:
        await provider.submit(order("mine", prompt=""))
    extra = server.prompts()[0]["extra_data"]
    outputs = {node: {"images": [file(f"{node}.png")]} for node in ("2", "5", "9")}
    answer = finished(outputs, workflow={"prompt": GRAPH, "extra_data": {**extra, "create_time": 1}})
    assert [name for name, _ in await collected(answer)] == ["9.png", "2.png"]


@pytest.mark.parametrize("outputs", [{}, {"1": {"text": ["x"]}}, {"1": {"images": []}}])
async def test_a_job_without_files_is_broken(outputs: dict[str, Any]) -> None:
    """A job that is done and has made nothing has failed."""
    async with comfyui(finished(outputs)) as provider:
        with pytest.raises(Broken, match="without an output"):
            await provider.poll("x")


@pytest.mark.parametrize("older", [False, True])
async def test_a_job_that_failed_has_failed_whatever_it_saved(older: bool) -> None:
    """Files of a node that came before the failing one are no result: one may be a draft that was to be refined."""
    outputs = {"2": {"images": [file("draft.png")]}}
    failure = {"node_type": "KSampler", "exception_type": "torch.OutOfMemoryError", "exception_message": "no memory"}
    status = {"status_str": "error", "completed": False, "messages": [["execution_error", failure]]}
    entry = {"prompt": [1, "x", {"2": {}}, {}, ["2"]], "outputs": outputs, "status": status}

    def server(request: httpx.Request) -> httpx.Response:
        if not older:
            return finished(outputs, status="failed", execution_error=failure)(request)
        known = {"/queue": RESTART["queue"]["json"], "/history/x": {"x": entry}}
        found = known.get(request.url.path)
        return httpx.Response(200, json=found) if found else httpx.Response(405, text="405: Method Not Allowed")

    async with comfyui(server) as provider:
        with pytest.raises(Broken) as caught:
            await provider.poll("x")
    assert (caught.value.message, caught.value.code) == ("KSampler: no memory", "torch.OutOfMemoryError")


def restarted(older: bool, *known: str) -> Handler:
    """A server as one was seen after a restart; `older` ones have no route for jobs. It finished the known ones."""

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        if name in known:
            return finished({"1": {"images": [file(f"{name}.png")]}})(request)
        if older and request.url.path.startswith("/api/"):
            return httpx.Response(404, text="404: Not Found")
        what = {"queue": "queue"}.get(name) or request.url.path.split("/")[-2].removesuffix("s")
        found = RESTART[what]
        return httpx.Response(found["status"], json=found["json"])

    return answer


@pytest.mark.parametrize("older", [False, True])
async def test_a_job_that_a_restart_took_is_lost(older: bool) -> None:
    """The server answers, and knows nothing of the job that it had: nothing will ever come of it."""
    async with comfyui(restarted(older)) as provider:
        with pytest.raises(Lost) as caught:
            await provider.poll("gone")
        assert caught.value.code == "job_lost"
        with pytest.raises(Lost):
            await provider.poll('["gone", "too"]')


async def test_what_is_left_of_several_jobs_counts() -> None:
    """Of an order of several jobs, those that the server still has are delivered."""
    async with comfyui(restarted(False, "left")) as provider:
        done = await provider.poll('["gone", "left"]')
    assert isinstance(done, Done)
    assert [httpx.URL(one.url or "").params["filename"] for one in done.outputs] == ["left.png"]


async def test_a_job_that_ends_between_two_looks_is_not_lost() -> None:
    """Asked for queue and history, an older server has the job in one of them, for the queue is asked first."""
    looks: list[str] = []
    entry = {"prompt": [1, "x", {"1": {}}, {}, ["1"]], "outputs": {"1": {"images": [file("a.png")]}}}

    def finishing(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/api/"):
            return httpx.Response(404, text="404: Not Found")
        # It runs until it was looked for once.
        looks.append(request.url.path)
        running = [[1, "x", {}, {}, ["1"]]] if len(looks) == 1 else []
        if request.url.path == "/queue":
            return httpx.Response(200, json={"queue_running": running, "queue_pending": []})
        return httpx.Response(200, json={} if running else {"x": entry})

    async with comfyui(finishing) as provider:
        assert isinstance(await provider.poll("x"), Pending)
        assert isinstance(await provider.poll("x"), Done)


async def test_a_server_that_is_away_has_lost_nothing() -> None:
    """While a server restarts, and where something else answers in its place, nobody knows how its jobs stand."""
    async with upstream(hangs_up) as server:
        gone = server.base_url
    async with comfyui(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.poll("x")


async def test_a_state_that_is_new_is_waited_for() -> None:
    """A state of a job that we do not know is none that it ends in."""
    async with comfyui(lambda request: httpx.Response(200, json={"id": "x", "status": "warming"})) as provider:
        pending = await provider.poll("x")
    assert isinstance(pending, Pending)
    assert (pending.job, pending.note) == ("x", "warming")


async def test_a_servers_folders_are_not_told() -> None:
    """The reason of a failed job is told without the paths in it, and an exception without words has its name."""
    reason = {"node_type": "LoadImage", "exception_type": "OSError"}
    for said, told in (
        ("no '/srv/comfy/input/a.png' or C:\\comfy\\models\\b.ckpt", "LoadImage: no '[file]' or [file]"),
        ("", "ComfyUI gave no reason"),
        ("sdxl/base.safetensors is not there", "LoadImage: sdxl/base.safetensors is not there"),
    ):
        failed = {"id": "x", "status": "failed", "execution_error": {**reason, "exception_message": said}}
        async with comfyui(lambda request, failed=failed: httpx.Response(200, json=failed)) as provider:  # type: ignore[misc]  # a lambda has no types
            with pytest.raises(Broken) as caught:
                await provider.poll("x")
        assert (caught.value.message, caught.value.code) == (told, "OSError")


@pytest.mark.parametrize(
    ("node", "name", "kind", "wanted", "param"),
    [
        ("5", "width", "value_bigger_than_max", Refused, "size"),
        ("3", "steps", "value_bigger_than_max", Refused, "steps"),
        ("3", "cfg", "value_smaller_than_min", Refused, "cfg_scale"),
        ("5", "batch_size", "value_bigger_than_max", Refused, "n"),
        ("3", "sampler_name", "value_not_in_list", Unavailable, None),
        ("4", "ckpt_name", "value_not_in_list", Unavailable, None),
        ("3", "denoise", "value_bigger_than_max", Broken, None),
        ("3", "model", "return_type_mismatch", Broken, None),
    ],
)
async def test_who_is_to_blame_is_told(
    node: str, name: str, kind: str, wanted: type[ProviderError], param: str | None
) -> None:
    """Only an input that the caller has set is the caller's fault, under our name for it.

    What the server lacks may be on another one, and a workflow that does not fit fits nowhere.
    """
    error = {"type": kind, "message": "No", "details": name, "extra_info": {"input_name": name, "traceback": ["x"]}}
    errors = {node: {"errors": [error], "dependent_outputs": ["9"], "class_type": "KSampler"}}
    failed = {"type": "prompt_outputs_failed_validation", "message": "No", "details": "", "extra_info": {}}
    answer = {"error": failed, "node_errors": errors}
    async with comfyui(lambda request: httpx.Response(400, json=answer)) as provider:
        with pytest.raises(wanted) as caught:
            await provider.submit(order(n=2, size="768x512", parameters={"steps": 9, "cfg_scale": 5}))
    assert (type(caught.value), caught.value.param, caught.value.code) == (wanted, param, kind)


@pytest.mark.parametrize(
    ("name", "wanted", "code"),
    [
        ("error400_bad_linked_input", Broken, "bad_linked_input"),
        ("error400_bad_prompt_id", Broken, "invalid_prompt_id"),
        ("error400_invalid_type", Broken, "invalid_input_type"),
        ("error400_loadimage_missing_file", Broken, "custom_validation_failed"),
        ("error400_no_class_type", Unavailable, "missing_node_type"),
        ("error400_no_outputs", Broken, "prompt_no_outputs"),
        ("error400_no_prompt", Broken, "no_prompt"),
        ("error400_required_input_missing", Broken, "required_input_missing"),
        ("error400_return_type_mismatch", Broken, "return_type_mismatch"),
        ("error400_unknown_class", Unavailable, "missing_node_type"),
        ("error400_value_bigger_than_max", Broken, "value_bigger_than_max"),
        ("error400_value_not_in_list_and_more", Unavailable, "value_not_in_list"),
        ("error400_value_smaller_than_min", Broken, "value_smaller_than_min"),
        ("error_invalid_json_body", Unsure, None),
        ("error_link_to_absent_node", Broken, "exception_during_validation"),
        ("error_ui_format_workflow", Unsure, None),
    ],
)
async def test_every_error_of_a_real_server_is_understood(
    name: str, wanted: type[ProviderError], code: str | None
) -> None:
    """Each answer that a real server gave to a workflow it did not take is told as what it is, without its paths."""
    error = ERRORS[name]
    answer = httpx.Response(error["status"], **{kind: error[kind] for kind in ("json", "text") if kind in error})
    async with comfyui(lambda request: answer, model()) as provider:
        with pytest.raises(wanted) as caught:
            await provider.submit(order("mine", prompt=""))
    assert (type(caught.value), caught.value.code) == (wanted, code)
    assert "/app" not in caught.value.message
    assert "traceback" not in caught.value.message


def test_every_error_is_tried() -> None:
    """The test above leaves none of the captured answers out."""
    (mark,) = test_every_error_of_a_real_server_is_understood.pytestmark  # type: ignore[attr-defined]  # pytest sets it
    assert {name for name, *_ in mark.args[1]} == set(ERRORS)


async def test_nothing_is_sent_again() -> None:
    """An order that a server answers with a failure was sent once."""
    calls: list[str] = []

    def fail(request: httpx.Request) -> httpx.Response:
        calls.append(request.url.path)
        return httpx.Response(503)

    async with comfyui(fail) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order())
    assert calls == ["/prompt"]


@pytest.mark.parametrize("behave", [resets, hangs_up, says_nothing, answers_half])
async def test_a_lost_order_is_unsure_and_not_sent_again(behave: Behaviour) -> None:
    """However the connection dies after the order was read, the server got it exactly once."""
    async with upstream(behave) as server, comfyui(base_url=server.base_url, timeout=0.3) as provider:
        with pytest.raises(Unsure):
            await provider.submit(order())
        assert len(server.requests) == 1


async def test_a_lost_upload_is_no_order() -> None:
    """When the connection dies under an upload nothing was ordered, so that it may be done anew."""
    async with upstream(hangs_up) as server, comfyui(base_url=server.base_url) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order(SD15, PICTURE))
        assert len(server.requests) == 1


async def test_something_else_in_a_servers_place_ends_nothing() -> None:
    """A proxy that says 404 to everything, as one does whose server is away, makes neither order nor job fail."""
    async with comfyui(lambda request: httpx.Response(404, text="404 page not found")) as provider:
        with pytest.raises(Unavailable):
            await provider.submit(order())
        with pytest.raises(Unavailable):
            await provider.poll("x")
        with pytest.raises(Unavailable):
            await provider.find(order())


async def test_a_file_is_read_from_its_server_alone() -> None:
    """The key goes to the server of the provider, whatever host an address names; a failure is told as one."""
    seen: list[httpx.Request] = []

    def view(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200 if len(seen) == 1 else 404, content=b"bytes" if len(seen) == 1 else b"")

    async with comfyui(view, key="secret", base_url="http://gpu.test:8188") as provider:
        output = Output(url="http://elsewhere.test/view?filename=a+b.png&subfolder=s%2Fd&type=output")
        assert b"".join([chunk async for chunk in provider.read(output)]) == b"bytes"
        with pytest.raises(Refused):
            assert not [chunk async for chunk in provider.read(output)]
    assert str(seen[0].url) == "http://gpu.test:8188/view?filename=a+b.png&subfolder=s%2Fd&type=output"
    assert seen[0].headers["authorization"] == "Bearer secret"


async def test_the_probe_wants_a_comfyui() -> None:
    """The probe is a read, and any other program that answers is none."""
    queue: dict[str, Any] = {"queue_running": [], "queue_pending": []}
    async with comfyui(lambda request: httpx.Response(200, json=queue)) as provider:
        await provider.probe()
    async with comfyui(lambda request: httpx.Response(200, json={"status": "ok"})) as provider:
        with pytest.raises(Broken):
            await provider.probe()


class Talker:
    """A server on a real socket, that plays what a socket was told, and says how jobs stand."""

    def __init__(self, *told: str | bytes, status: str = "in_progress") -> None:
        self.told = told
        self.status = status
        self.clients: list[tuple[str, str | None]] = []
        self.heard: list[Any] = []

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        """Tells all once it was greeted, and closes."""
        self.clients.append((request.query["clientId"], request.headers.get("Authorization")))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.heard.append(await socket.receive_json())
        for one in self.told:
            await (socket.send_str(one) if isinstance(one, str) else socket.send_bytes(one))
        await socket.close()
        return socket

    async def job(self, request: web.Request) -> web.Response:
        """Says how a job stands."""
        return web.json_response({"id": request.match_info["job"], "status": self.status})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address while it listens."""
        app = web.Application()
        app.add_routes([web.get("/ws", self.socket), web.get("/api/jobs/{job}", self.job)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def heard(talker: Talker, job: str, key: str | None = None) -> list[Progress]:
    """What is reported of a job."""
    reports: list[Progress] = []

    async def report(progress: Progress) -> None:
        reports.append(progress)

    async with talker.listening() as address, comfyui(base_url=address, key=key) as provider:
        await provider.watch(job, report)
    return reports


def replayed(socket: Mapping[str, Any]) -> list[str | bytes]:
    """What a real server told, with its previews: their lengths are the real ones, their pictures are made up."""
    told: list[str | bytes] = []
    for message in socket["messages"]:
        if "text" in message:
            told.append(json.dumps(message["text"]))
        else:
            owner = message["preview"]["metadata"]
            head = preview(JPEG, owner) if owner else preview(JPEG)
            told.append(head.ljust(message["preview"]["length"], b"."))
    return told


def preview(picture: bytes, owner: Any = None) -> bytes:
    """A preview as newer servers send it to those who understand it, and without an owner as all others do."""
    if owner is None:
        return b"\0\0\0\1\0\0\0\1" + picture
    said = json.dumps(owner).encode()
    return b"\0\0\0\4" + len(said).to_bytes(4) + said + picture


@pytest.mark.parametrize("form", ["unowned", "owned"])
async def test_the_socket_tells_the_sampler_s_steps(form: str) -> None:
    """Of what a real server told, each step is reported once, and each preview with the step that it is of."""
    socket = SOCKETS[form]
    talker = Talker(*replayed(socket))
    reports = await heard(talker, socket["prompt_id"], key="secret")
    texts = [one["text"] for one in socket["messages"] if "text" in one]
    steps = [f"step {one['data']['value']} of {one['data']['max']}" for one in texts if one["type"] == "progress"]
    assert len(steps) > 2
    assert [one.note for one in reports if not one.preview] == ["started", *steps]
    assert [one.note for one in reports if one.preview] == steps
    fractions = [one.fraction for one in reports if not one.preview]
    assert fractions == sorted(set(fractions))
    assert (fractions[0], round(fractions[-1], 6)) == (0.05, 0.95)
    previews = [one.preview for one in reports if one.preview]
    assert [one.index for one in previews] == [*range(len(steps))]
    assert {one.media_type for one in previews} == {"image/jpeg"}
    lengths = [one["preview"]["length"] for one in socket["messages"] if "preview" in one]
    assert all(0 < length - len(one.data) < 200 for length, one in zip(lengths, previews, strict=True))
    assert all(one.data.startswith(JPEG) for one in previews)
    assert talker.clients == [(socket["prompt_id"], "Bearer secret")]
    assert talker.heard == [{"type": "feature_flags", "data": {"supports_preview_metadata": True}}]


async def test_a_preview_is_ours_and_a_picture_and_not_too_large() -> None:
    """Others' previews, those of before our job began, what is no picture, and what is too large are passed over."""
    ours, other = {"prompt_id": "ours"}, {"prompt_id": "other"}
    begun = json.dumps({"type": "execution_start", "data": ours})
    told = (
        preview(PNG + b"before"), preview(PNG + b"a", ours), preview(PNG + b"other", other),
        b"", b"\0\0\0", b"\0\0\0\4\xff\xff\xff\xff{", b"\0\0\0\3\0\0\0\0a text", begun,
        preview(b"<svg/>"), preview(JPEG.ljust(1 << 20, b".")), preview(JPEG.ljust((1 << 20) + 1, b".")),
        preview(PNG + b"b"), json.dumps({"type": "execution_success", "data": ours}), preview(PNG + b"after"),
    )  # fmt: skip
    reports = await heard(Talker(*told), "ours")
    previews = [one.preview for one in reports if one.preview]
    assert [(one.index, one.media_type, one.data[-1:]) for one in previews] == [
        (0, "image/png", b"a"), (1, "image/jpeg", b"."), (2, "image/png", b"b"),
    ]  # fmt: skip
    assert [one.fraction for one in reports] == [0.0, 0.05, 0.05, 0.05]


async def test_previews_are_made_when_they_are_asked_for() -> None:
    """A server makes them for those jobs alone whose order wants some."""
    server = Server()
    async with comfyui(server) as provider:
        await provider.submit(order())
        await provider.submit(order(key="attempt-2", partial_images=2))
    assert [one["extra_data"].get("preview_method") for one in server.prompts()] == [None, "auto"]


async def test_what_is_told_of_other_jobs_is_not_ours() -> None:
    """Frames of another job, of no job, and of no sense are passed over, and nothing goes backwards."""
    told = [
        {"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "other"}},
        {"type": "execution_success", "data": {"prompt_id": "other"}},
        {"type": "executing", "data": {"node": "3"}},
        {"type": "custom", "data": None},
        [],
        {"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "ours"}},
        {"type": "progress", "data": {"value": 1, "max": 4, "prompt_id": "ours"}},
        {"type": "progress", "data": {"value": "x", "max": 0, "prompt_id": "ours"}},
        {"type": "progress", "data": {"value": 1, "max": 0, "prompt_id": "ours"}},
        {"type": "progress_state", "data": {"nodes": 3, "prompt_id": "ours"}},
        {
            "type": "progress_state",
            "data": {"nodes": {"4": {"value": 1, "max": 1, "state": "running"}}, "prompt_id": "ours"},
        },
        {
            "type": "progress_state",
            "data": {"nodes": {"3": {"value": 6, "max": 6, "state": "finished"}}, "prompt_id": "ours"},
        },
        {"type": "execution_success", "data": {"prompt_id": "ours"}},
        {"type": "progress", "data": {"value": 2, "max": 2, "prompt_id": "ours"}},
    ]
    reports = await heard(Talker("{", *map(json.dumps, told)), "ours")
    assert reports == [Progress(0.5, "step 1 of 2")]


async def test_several_jobs_are_one_progress() -> None:
    """The jobs of one order are followed one after the other, and each is its share of the whole."""
    steps = [{"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": one}} for one in ("a", "b")]
    previews = [preview(PNG, {"prompt_id": one}) for one in ("a", "b")]
    talker = Talker(*map(json.dumps, steps), *previews)
    reports = await heard(talker, '["a","b"]')
    assert [one.fraction for one in reports] == [0.25, 0.25, 0.75, 0.75]
    assert [one.preview.index for one in reports if one.preview] == [0, 1]
    assert [client for client, _ in talker.clients] == ["a", "b"]


async def test_a_job_that_is_over_is_not_listened_for() -> None:
    """Nobody waits for frames that were sent before."""
    told = json.dumps({"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "ours"}})
    assert await heard(Talker(told, status="completed"), "ours") == []


async def test_a_socket_that_cannot_be_had_is_unavailable() -> None:
    """A server that is away, or has no socket, is told as an error of the contract."""

    async def report(progress: Progress) -> None:
        raise AssertionError("there is nothing to report")

    async with upstream(hangs_up) as server:
        async with comfyui(base_url=server.base_url) as provider:
            with pytest.raises(Unavailable):
                await provider.watch("x", report)
        gone = server.base_url
    async with comfyui(base_url=gone) as provider:
        with pytest.raises(Unavailable):
            await provider.watch("x", report)
