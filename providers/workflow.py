"""Workflows as data: a graph of nodes in ComfyUI's API format, and a map of where the members of an order go.

The options of a model name a workflow for each of its operations. What does not fit together is found when they are
read, and raised as CardError; what an order asks for and its workflow has no place for is Refused.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from providers.card import CardError, ModelCard, Parameter, SizeRule
from providers.contract import Kind, Operation, Order, Refused, Role

INPAINT, IMAGE_TO_VIDEO = "inpaint", "image_to_video"
"""Among the options, the workflows of an edit with a mask, and of a film that begins with a picture."""
FRAMES = "frames"
"""The type of a film's length, as workflows count it."""
SEEDS = 2**50
KEYS: Mapping[str, str] = {
    "": "text", "prompt": "text", "negative_prompt": "text", "n": "batch_size",
    **{role.value: "file" if role is Role.VIDEO else "image" for role in Role},
}  # fmt: skip
"""The input that a type of value goes into when the map names none; any other goes into that of its own name."""
TYPES = frozenset(
    {*KEYS, "model", "width", "height", "aspect_ratio", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"}
    | {"filename_prefix"}
)
"""Beside these, a model's own parameters and extras are types, by their names at the server."""


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of a map: the value of that type goes into the input `key` of these nodes, without a type `value` does.

    As Open WebUI has it, whose editor writes the ids as one text with commas.
    """

    type: str | None = None
    key: str | None = None
    node_ids: list[str | int] | str = []
    value: Any = None

    @property
    def ids(self) -> list[str]:
        """The ids, however they were written."""
        parts = self.node_ids.split(",") if isinstance(self.node_ids, str) else map(str, self.node_ids)
        return [part.strip() for part in parts if part.strip()]


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A workflow with its map. `outputs` are the nodes whose files count, when not all do.

    `fps` are the frames of a second of the film that it makes, for a parameter `seconds` that is sent as `frames`.
    `workflow` is the graph, or JSON text or the path of a file with it, or the name of one that is built in. The file
    may hold a whole plan; then `nodes` here come on top of its own.
    """

    workflow: str | dict[str, Any]
    nodes: list[Node] = []
    outputs: list[str | int] = []
    fps: float | None = None


class Definition(msgspec.Struct, frozen=True):
    """What a server says of a class of nodes: under `required` and `optional`, the type and the limits of each input.

    Custom nodes say it as they like.
    """

    input: Any = None

    def choices(self, name: str) -> list[Any] | None:
        """What an input must be one of; None when that is no list, or one of files that an order brings with it."""
        parts = self.input if isinstance(self.input, dict) else {}
        for part in (parts.get("required"), parts.get("optional")):
            said = part.get(name) if isinstance(part, dict) else None
            if isinstance(said, list) and said:
                return _choices(said[0], next((one for one in said[1:] if isinstance(one, dict)), {}))
        return None


class Step(msgspec.Struct, frozen=True):
    """A node of a graph."""

    class_type: str
    inputs: dict[str, Any]


class Workflow:
    """A graph that was checked; `places` are (node, input) by the type of the value that goes there."""

    def __init__(self, plan: Plan, where: str) -> None:
        steps = _steps(plan.workflow, where)
        self._graph = copy.deepcopy(plan.workflow) if isinstance(plan.workflow, dict) else {}
        self.outputs = tuple(map(str, plan.outputs))
        self.fps = plan.fps or 0
        self.classes = {step.class_type for step in steps.values()}
        self.places: dict[str, list[tuple[str, str]]] = {}
        for one in self.outputs:
            _step(steps, one, where)
        for node in plan.nodes:
            for one in node.ids:
                self._place(node, one, _step(steps, one, where), where)

    def filled(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A copy with these values by type in their places: a list goes in one by one, anything else everywhere."""
        graph = copy.deepcopy(self._graph)
        for kind, value in values.items():
            for place, (node, key) in enumerate(self.places.get(kind, ())):
                if not isinstance(value, list):
                    graph[node]["inputs"][key] = value
                elif place < len(value):
                    graph[node]["inputs"][key] = value[place]
        return graph

    def chosen(
        self, definitions: Mapping[str, Definition], values: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any, list[Any]]]:
        """The place, the value and the choices of each input that a server has choices for, with these values in."""
        for node, step in self.filled(values).items():
            for key, value in step["inputs"].items():
                choices = definitions[step["class_type"]].choices(key)
                # A list is a link.
                if choices is not None and not isinstance(value, list):
                    yield f"{node}.{key}", value, choices

    def type_at(self, place: str | None) -> str | None:
        """The type of the value at `node.input`."""
        return next((kind for kind, ones in self.places.items() if place in {*map(".".join, ones)}), None)

    def _place(self, node: Node, one: str, step: Step, where: str) -> None:
        kind = node.type or ""
        key = node.key or KEYS.get(kind, kind)
        if key not in step.inputs:
            # The server ignores inputs that a node does not have, so that nobody would ever notice.
            offered = ", ".join(step.inputs) or "none"
            raise CardError(f"{where}: node {one} ({step.class_type}) has no input {key}; it has {offered}")
        if kind:
            self.places.setdefault(kind, []).append((one, key))
        else:
            self._graph[one]["inputs"][key] = node.value


class Workflows:
    """The workflows of one model, and what an order puts into them. `folder` has those that are built in."""

    def __init__(self, card: ModelCard, folder: Path, where: str) -> None:
        self._card = card
        self._types = {name: parameter.sent_as or name for name, parameter in card.parameters.items()}
        self._in_seconds = self._types.get("seconds") == FRAMES
        self._replaced = {self._types[name] for name, parameter in card.parameters.items() if parameter.required}
        known = {*map(str, Operation), INPAINT, IMAGE_TO_VIDEO}
        if strange := set(card.options) - known:
            raise CardError(
                f"{where}: options has {', '.join(sorted(strange))}; it may have {', '.join(sorted(known))}"
            )
        self._offered = {
            name: Workflow(_plan(raw, folder, f"{where}, options.{name}"), f"{where}, options.{name}")
            for name, raw in card.options.items()
        }
        self._check(where)

    def pick(self, order: Order) -> tuple[Workflow, dict[str, str]]:
        """The workflow of an order, and our word for each type of value that its caller asked for."""
        workflow = self._offered.get(_variant(order)) or self._offered.get(order.generation.operation)
        name = order.generation.model
        if workflow is None:
            raise Refused(f"{name} needs a mask for this", param=Role.MASK.value)
        asked = self._asked(order)
        for kind, member in asked.items():
            if kind not in workflow.places:
                raise Refused(f"{name} takes no {member} for this", param=member)
        for role in Role:
            given, most = len(order.of(role)), len(workflow.places.get(role, ()))
            if given > most or (most and not given):
                raise Refused(f"{name} takes {most or 'no'} {role} for this, not {given}", param=role.value)
        return workflow, asked

    def values(self, order: Order, workflow: Workflow) -> dict[str, Any]:
        """What an order puts into its workflow, by type. What is missing here stays as the workflow has it."""
        wanted = order.generation
        # A repeated workflow is answered with the files of the first one, so that each order has a seed of its own.
        seed = int.from_bytes(hashlib.sha256(order.idempotency_key.encode()).digest()[:8]) % SEEDS
        values: dict[str, Any] = {"model": order.model, "n": wanted.n, "seed": seed, **wanted.extras}
        values |= self._card.renamed(wanted.parameters)
        values |= {"prompt": wanted.prompt} if wanted.prompt else {}
        values |= {"aspect_ratio": wanted.aspect_ratio} if wanted.aspect_ratio else {}
        if self._in_seconds and FRAMES in values:
            # The first one and then those that follow: so the models of films count them.
            values[FRAMES] = round(values[FRAMES] * values.get("fps", workflow.fps)) + 1
        if size := _size(order, self._card):
            values |= {"width": size[0], "height": size[1]}
        return values

    def card_at(self, definitions: Mapping[str, Definition]) -> ModelCard | None:
        """The card as a server with these nodes can serve it: a parameter's values are those that are there.

        None when it lacks a node, or a file or another value that a workflow names and no order replaces.
        """
        offered: dict[str, list[Any]] = {}
        for workflow in self._offered.values():
            if not workflow.classes <= set(definitions):
                return None
            for place, value, choices in workflow.chosen(definitions, {"model": self._card.name}):
                kind = workflow.type_at(place)
                if value not in choices and kind not in self._replaced:
                    return None
                if kind is not None:
                    offered[kind] = [one for one in offered.get(kind, choices) if one in choices]
        narrowed = {
            name: _narrowed(parameter, offered[self._types[name]])
            for name, parameter in self._card.parameters.items()
            if self._types[name] in offered
        }
        if not all(one.values for one in narrowed.values()):
            return None
        return msgspec.structs.replace(self._card, parameters={**self._card.parameters, **narrowed})

    def _asked(self, order: Order) -> dict[str, str]:
        wanted = order.generation
        asked = {self._types.get(name, name): name for name in (*wanted.parameters, *wanted.extras)}
        asked |= {member: member for member in ("prompt", "aspect_ratio") if getattr(wanted, member)}
        asked |= {"n": "n"} if wanted.n > 1 else {}
        if wanted.size not in (None, self._card.default_size):
            asked |= {"width": "size", "height": "size"}
        return asked

    def _check(self, where: str) -> None:
        """Raises CardError for what the card promises and no workflow can do, and for what the maps do not know."""
        card = self._card
        for operation in card.operations:
            if operation not in self._offered and not (operation is Operation.EDIT and INPAINT in self._offered):
                raise CardError(f"{where}: options.{operation} has to name its workflow")
        offered = self._offered.values()
        known = TYPES | set(self._types.values()) | set(card.extras)
        mapped = {kind for one in offered for kind in one.places}
        for role, rule in card.inputs.items():
            places = max((len(one.places.get(role, ())) for one in offered), default=0)
            if rule.max > places:
                raise CardError(f"{where}: inputs.{role} takes up to {rule.max}, and no workflow more than {places}")
        if self._in_seconds and not all(one.fps > 0 for one in offered if FRAMES in one.places):
            raise CardError(f"{where}: seconds become frames by the fps of the workflow, which has to say them")
        if strange := mapped - known:
            raise CardError(f"{where}: nothing is of type {min(strange)}; there are {', '.join(sorted(known - {''}))}")
        for name, kind in self._types.items():
            if kind not in mapped:
                raise CardError(f"{where}: no node takes the parameter {name}: map the type {kind}")
        if (card.n_per_call or card.max_n) > 1 and not all("n" in one.places for one in offered):
            raise CardError(f"{where}: a workflow that makes several at once maps the type n; else say n_per_call = 1")


def _variant(order: Order) -> str:
    """The option that is meant for what goes with an order, before that of its operation."""
    if order.of(Role.MASK):
        return INPAINT
    film = order.generation.kind is Kind.VIDEO and order.generation.operation is Operation.GENERATION
    return IMAGE_TO_VIDEO if film and order.inputs else ""


def _choices(kind: Any, limits: Mapping[str, Any]) -> list[Any] | None:
    """The list among the type and the limits of an input. Older nodes have it in place of the type."""
    if limits.get("multiselect") or any(on for name, on in limits.items() if name.endswith("_upload")):
        return None
    found = limits.get("options") if kind == "COMBO" else kind
    return found if isinstance(found, list) else None


def _narrowed(parameter: Parameter, choices: list[Any]) -> Parameter:
    """The parameter with those of its values that are among the choices, or with all of them when it lists none."""
    values = tuple(one for one in parameter.values or choices if one in choices)
    return msgspec.structs.replace(parameter, values=values)


def _plan(raw: Any, folder: Path, where: str) -> Plan:
    """A plan with its graph in it."""
    plan = _converted(raw, where)
    graph = _loaded(plan.workflow, folder, where) if isinstance(plan.workflow, str) else plan.workflow
    if isinstance(graph.get("workflow"), dict) and "class_type" not in graph["workflow"]:
        inner = _converted(graph, where)
        return Plan(inner.workflow, [*inner.nodes, *plan.nodes], plan.outputs or inner.outputs, plan.fps or inner.fps)
    return Plan(graph, plan.nodes, plan.outputs, plan.fps)


def _converted(raw: Any, where: str) -> Plan:
    try:
        return msgspec.convert(raw, Plan)
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: {error}") from error


def _loaded(text: str, folder: Path, where: str) -> dict[str, Any]:
    """A graph from JSON text, from a file, or from one that is built in."""
    built_in = folder / f"{text}.json"
    try:
        if text.lstrip().startswith("{"):
            return msgspec.json.decode(text, type=dict[str, Any])
        plain = Path(text).name == text and built_in.is_file()
        return msgspec.json.decode((built_in if plain else Path(text)).read_bytes(), type=dict[str, Any])
    except OSError as error:
        known = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
        raise CardError(f"{where}: there is no file {text}, and no workflow of that name; there are {known}") from error
    except msgspec.MsgspecError as error:
        raise CardError(f"{where}: the workflow is no JSON object: {error}") from error


def _steps(graph: Any, where: str) -> dict[str, Step]:
    if isinstance(graph, dict) and "nodes" in graph and "links" in graph:
        raise CardError(
            f"{where}: this is the editor's own format, which the server does not run; "
            "export the workflow in API format (in ComfyUI: Workflow, Export (API))"
        )
    try:
        return msgspec.convert(graph, dict[str, Step])
    except msgspec.ValidationError as error:
        raise CardError(f"{where}: the workflow is not in API format: {error}") from error


def _step(steps: Mapping[str, Step], one: str, where: str) -> Step:
    if one not in steps:
        raise CardError(f"{where}: there is no node {one}; there are {', '.join(steps)}")
    return steps[one]


def _size(order: Order, card: ModelCard) -> tuple[int, int] | None:
    """Width and height of what is made: as asked for, else those of the picture, else the model's own."""
    pictures = order.of(Role.IMAGE, Role.FIRST_FRAME)
    text = order.generation.size or (None if pictures else card.default_size)
    if text is not None:
        width, _, height = text.partition("x")
        return int(width), int(height)
    if pictures and card.size_rule is not None:
        return _fitted(pictures[0].width, pictures[0].height, card.size_rule)
    return None


def _fitted(width: int, height: int, rule: SizeRule) -> tuple[int, int]:
    """The nearest size of the same shape that the rule allows; a shape beyond the rule is cut."""
    shrink = min(1.0, math.sqrt(rule.max_pixels / (width * height)), rule.max_edge / max(width, height))
    scale = max(shrink, rule.min_edge / min(width, height))

    def edge(length: int) -> int:
        fitting = round(min(max(length * scale, rule.min_edge), rule.max_edge))
        return fitting // rule.multiple_of * rule.multiple_of

    return edge(width), edge(height)
