"""The settings of what is done with prompts before a provider sees them: checking and enhancing."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

TemplateName = Literal["general", "photorealistic", "illustration", "minimalist", "sticker", "product", "comic"]


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Further fields of the settings, which follow its own."""

    blocklist_file: Annotated[
        str | None,
        Meta(
            description="File of words and regular expressions, one a line, with which no prompt is accepted; "
            "see docs/configuration.md. It is read again when it changes."
        ),
    ] = None
    moderation_base_url: Annotated[
        str | None,
        Meta(
            description="Base URL, such as `https://api.openai.com/v1`, of a moderation model to which every prompt is "
            "shown before it is accepted; when empty, none is."
        ),
    ] = None
    moderation_api_key: Annotated[
        str | None, Meta(description="Bearer text for the moderation model.", extra={"secret": True})
    ] = None
    moderation_model: Annotated[str, Meta(description="Name of the moderation model.")] = "omni-moderation-latest"
    moderation_seconds: Annotated[
        float, Meta(gt=0, le=60, description="How long a request waits for the moderation model.")
    ] = 5.0
    moderation_failure: Annotated[
        Literal["closed", "open"],
        Meta(
            description="What becomes of a request while the moderation model does not answer: `closed` refuses it "
            "with 503, `open` lets it pass."
        ),
    ] = "closed"
    hook_seconds: Annotated[
        float, Meta(gt=0, le=60, description="How long a hook of an installed package may take over a request.")
    ] = 5.0
    enhance: Annotated[
        Literal["asked", "always"],
        Meta(
            description="Whether prompts are enhanced where a request asks for it, or unless it says `enhance: false`."
        ),
    ] = "asked"
    enhance_template: Annotated[
        TemplateName, Meta(description="How prompts are enhanced where a request does not say.")
    ] = "general"
    enhance_base_url: Annotated[
        str | None,
        Meta(
            description="Base URL of the OpenAI-compatible chat model that enhances prompts; when empty, built-in "
            "rules do."
        ),
    ] = None
    enhance_api_key: Annotated[
        str | None, Meta(description="Bearer text for that chat model.", extra={"secret": True})
    ] = None
    enhance_model: Annotated[
        str | None, Meta(description="Name of that chat model; needed with `enhance_base_url`.")
    ] = None
    enhance_seconds: Annotated[
        float, Meta(gt=0, le=60, description="How long a task waits for the chat model, before the rules take over.")
    ] = 10.0
