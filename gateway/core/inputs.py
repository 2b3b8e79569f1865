"""Inputs: which pictures a model takes, and in which roles."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.core.errors import GatewayError, allowed, invalid, shown
from providers.card import InputRule, ModelCard
from providers.contract import Generation, Operation, Role

# The members of a request in which pictures come, where they are not called like the role.
FIELDS = {Role.STYLE: "style_image", Role.CONTROL: "control_image", Role.REFERENCE: "image", Role.FIRST_FRAME: "image"}


# The roles that plain pictures may come to have.
PLAIN = (Role.IMAGE, Role.FIRST_FRAME, Role.REFERENCE)
# What is done to one picture, or film.
OF_ONE = (Operation.VARIATION, Operation.UPSCALE, Operation.OUTPAINT, Operation.REMOVE_BACKGROUND)


class Upload(msgspec.Struct, frozen=True):
    """A picture or film that was checked: sizes in pixels and bytes.

    `place` is a file at first, and a key once it is kept.
    """

    role: Role
    field: str
    place: str
    media_type: str
    width: int
    height: int
    size: int
    transparent: bool = False
    seconds: float | None = None


def assigned(card: ModelCard, roles: Sequence[Role]) -> list[Role]:
    """The roles in which a model takes pictures; a plain picture beyond those that it works on is a reference.

    A film begins with the picture that it is given, where the model knows no other use for it.
    """
    left = {role: rule.max for role, rule in card.inputs.items()}
    found = []
    for role in roles:
        ways = PLAIN if role is Role.IMAGE else (role,)
        taken = next((way for way in ways if left.get(way, 0) > 0), role)
        left[taken] = left.get(taken, 0) - 1
        found.append(taken)
    return found


def check(generation: Generation, card: ModelCard, uploads: Sequence[Upload]) -> None:
    """Raises the error of the first picture that the model cannot use, or that it lacks."""
    roles, name = assigned(card, [one.role for one in uploads]), shown(generation.model)
    for role, one in zip(roles, uploads, strict=True):
        rule, most = card.inputs.get(role), _most(card, one.role, generation.operation)
        if not most:
            message = f"{name} takes no {one.field} for {generation.operation}."
            raise invalid(one.field, message, code="unsupported_parameter")
        if rule is None or roles.count(role) > min(rule.max, most):
            raise invalid(one.field, f"{name} takes at most {most} of {one.field} for {generation.operation}.")
        if role is Role.VIDEO and one.media_type not in rule.media_types:
            raise allowed(one.field, one.media_type, rule.media_types)
        _check_size(rule, one)
    for role, rule in card.inputs.items():
        if roles.count(role) < rule.min:
            field = FIELDS.get(role, role.value)
            raise GatewayError("missing_parameter", f"{name} needs {field}.", param=field)


def _most(card: ModelCard, role: Role, operation: Operation) -> int:
    """How many pictures of this kind the model uses for an operation; plain ones in all their roles together."""
    alike = PLAIN if role is Role.IMAGE else (role,)
    offered = sum(rule.max for kind, rule in card.inputs.items() if kind in alike)
    return min(offered, 1) if operation in OF_ONE else offered


def _check_size(rule: InputRule, one: Upload) -> None:
    pixels, short, long = one.width * one.height, min(one.width, one.height), max(one.width, one.height)
    size = f"{one.field} is {one.width}x{one.height}"
    if short < rule.min_edge or long > rule.max_edge:
        message = f"{size}; its edges must be from {rule.min_edge} to {rule.max_edge} pixels."
    elif not rule.min_pixels <= pixels <= rule.max_pixels:
        message = f"{size}; it must have from {rule.min_pixels} to {rule.max_pixels} pixels."
    elif rule.max_bytes is not None and one.size > rule.max_bytes:
        message = f"{one.field} has {one.size} bytes, freed from its metadata; at most {rule.max_bytes} are taken."
    else:
        return
    raise GatewayError("invalid_image", message, param=one.field)
