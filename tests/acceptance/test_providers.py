"""Each provider through the whole gateway: HTTP in, a stand-in for the vendor over sockets, the object store out.

Credentials and addresses are set as an operator sets them. What the vendors do stands in `vendors/`.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
import trustme
from openai import OpenAI as Client
from PIL import Image
from sqlalchemy import text

from storage.database import Database
from tests.acceptance.deployments import Deployment, Distributed, Embedded, Vendor
from tests.acceptance.gateway import CANARY, CARDS, Asked, Gateway, charged, count, prompt, wait_for
from tests.acceptance.vendors.comfyui import CHECKPOINT, NEVER, ComfyUI
from tests.acceptance.vendors.fal import Fal
from tests.acceptance.vendors.minimax import MiniMax
from tests.acceptance.vendors.openai import OpenAI
from tests.acceptance.vendors.pictures import drawn, png, shows, upload
from tests.acceptance.vendors.replicate import Replicate
from tests.acceptance.vendors.stability import Stability
from tests.acceptance.vendors.standin import BLOCKED, FEWER, Call, StandIn, serving
from tests.contracts.test_provider import over_http
from tests.processes import run
from tests.proxy import Proxy

GENERATIONS, EDITS, UPSCALES = "/v1/images/generations", "/v1/images/edits", "/v1/images/upscales"
MADE = "made"
ENLARGER = "stable-image-upscale-creative"
SQUARE = {"size": "1024x1024"}


class Plain(NamedTuple):
    """How two pictures are asked for: the model, what else is said, how the vendor says that, and in how many calls."""

    model: str
    body: Mapping[str, Any]
    sent: Mapping[str, Any]
    single: bool = False

    def calls(self, n: int) -> int:
        """How many paid calls make `n` pictures."""
        return n if self.single else 1


PLAIN = {
    "openai": Plain(
        "gpt-image-2", {**SQUARE, "quality": "low"}, {"model": "gpt-image-2", "n": 2, "quality": "low", **SQUARE}
    ),
    "stability": Plain("stable-image-core", {"style_preset": "anime"}, {"style_preset": "anime"}, single=True),
    "comfyui": Plain(
        "sd-1.5", {"size": "512x768"}, {"ckpt_name": CHECKPOINT, "width": 512, "height": 768, "batch_size": 2}
    ),
    "fal": Plain("fal-ai/flux/schnell", SQUARE, {"num_images": 2, "image_size": {"width": 1024, "height": 1024}}),
    "minimax": Plain("image-01", SQUARE, {"model": "image-01", "n": 2, "width": 1024, "height": 1024}),
    "replicate": Plain("black-forest-labs/flux-schnell", SQUARE, {"num_outputs": 2, "aspect_ratio": "1:1"}),
}


class Vendors(NamedTuple):
    """All of them."""

    openai: OpenAI
    stability: Stability
    comfyui: ComfyUI
    fal: Fal
    minimax: MiniMax
    replicate: Replicate

    def named(self, name: str) -> StandIn:
        """The one of that name."""
        vendor: StandIn = getattr(self, name)
        return vendor


Rush = Mapping[tuple[str, str], Future[Asked]]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who vouches for the vendors' files, and for the proxy before the gateway."""
    return trustme.CA()


@pytest.fixture(scope="session")
def vendors(authority: trustme.CA) -> Iterator[Vendors]:
    """The vendors, while they serve."""
    made = Vendors(OpenAI(), Stability(), ComfyUI(), Fal(), MiniMax(), Replicate())
    with serving(made, authority):
        yield made


@pytest.fixture(scope="module", params=["embedded", "distributed"])
def deployment(
    request: pytest.FixtureRequest,
    vendor: Vendor,
    vendors: Vendors,
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A deployment of each kind with all vendors, behind a proxy that speaks TLS."""
    folder = tmp_path_factory.mktemp(request.param)
    made: Deployment
    if request.param == "embedded":
        made = Embedded(folder, vendor, {})
    else:
        made = Distributed(folder, vendor, request.getfixturevalue("services")())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    front = Proxy("127.0.0.1", made.port, tls=tls)
    configure(made, vendors, authority, f"https://127.0.0.1:{front.port}")
    try:
        made.start()
        yield made
    finally:
        made.stop()
        front.close()


def configure(made: Deployment, vendors: Vendors, authority: trustme.CA, public_url: str) -> None:
    """Sets what an operator sets: credentials, addresses, where files may be fetched from, and whom to trust."""
    trusted = made.folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    made.environ |= {
        "HELIOGRAPH_PUBLIC_URL": public_url,
        "HELIOGRAPH_ALLOW_HOSTS": ",".join(vendor.files_url.removeprefix("https://") for vendor in vendors),
        "SSL_CERT_FILE": str(trusted),
    }
    tables = ""
    for vendor in vendors:
        card, address = CARDS[vendor.name], vendor.url + vendor.root
        made.environ[card.credentials["api_key"]] = vendor.secret
        if card.base_url_variable is not None:
            made.environ[card.base_url_variable] = address
        else:
            tables += f'[providers.{vendor.name}]\nbase_url = "{address}"\n'
    (made.folder / "heliograph.toml").write_text(tables, encoding="utf-8")


@pytest.fixture(scope="module")
def gateway(deployment: Deployment, key: str, authority: trustme.CA) -> Iterator[Gateway]:
    """The deployment, by plain HTTP and by the unmodified SDK."""
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with deployment.client(key) as http, Client(base_url=f"{deployment.url}/v1", api_key=key) as sdk:
        yield Gateway(deployment, http, sdk, trust)


@pytest.fixture(scope="module")
def rush(gateway: Gateway) -> Iterator[Rush]:
    """Every vendor is asked at the same time for pictures of each verb: by name and verb, what is answered."""

    def ask(plain: Plain, verb: str) -> Asked:
        words, n = prompt(verb), {MADE: 2, BLOCKED: 1, FEWER: 3}[verb]
        body = {"model": plain.model, "prompt": words, "n": n, "response_format": "url", **plain.body}
        return Asked(words, gateway.http.post(GENERATIONS, json=body))

    with ThreadPoolExecutor(len(PLAIN) * 3) as pool:
        yield {
            (name, verb): pool.submit(ask, plain, verb)
            for name, plain in PLAIN.items()
            for verb in (MADE, BLOCKED, FEWER)
        }


@pytest.fixture(scope="module", autouse=True)
def enlarging(gateway: Gateway) -> Asked:
    """An order whose vendor must not be asked for its result within ten seconds: they pass while others are tried."""
    words = prompt()
    data = {"model": ENLARGER, "prompt": words, "async": "true"}
    return Asked(words, gateway.http.post(UPSCALES, files=[upload("image", drawn())], data=data))


def edit(gateway: Gateway, model: str, *files: tuple[str, Image.Image], **members: str) -> Asked:
    """Asks for an edit of these pictures, as a form."""
    words = prompt()
    data = {"model": model, "prompt": words, **members}
    reply = gateway.http.post(EDITS, files=[upload(field, image) for field, image in files], data=data)
    return Asked(words, reply)


def test_every_vendor_is_tried() -> None:
    """A vendor that is asked over HTTP has a stand-in and a run. The others need none, or do not speak it."""
    assert set(PLAIN) == set(Vendors._fields) == set(over_http())


@pytest.mark.parametrize("name", PLAIN)
def test_pictures_are_made_stored_and_charged(name: str, rush: Rush, vendors: Vendors, gateway: Gateway) -> None:
    """The vendor is told once what was asked for; links lead to its very bytes; what it bills is charged."""
    plain, asked = PLAIN[name], rush[name, MADE].result()
    orders = gateway.check(asked, plain.model, vendors.named(name), plain.calls(2))
    assert all(dict(order.members) == {"prompt": asked.prompt, **plain.sent} for order in orders)
    assert len(asked.reply.json()["data"]) == 2


@pytest.mark.parametrize("name", PLAIN)
def test_fewer_pictures_are_charged_as_they_come(name: str, rush: Rush, vendors: Vendors, gateway: Gateway) -> None:
    """Of three pictures two come: they are delivered and charged, the task says so, and nothing is ordered again."""
    plain, asked = PLAIN[name], rush[name, FEWER].result()
    gateway.check(asked, plain.model, vendors.named(name), plain.calls(3))
    assert len(asked.reply.json()["data"]) == 2
    assert gateway.task(asked.reply)["adjusted"]["delivered_n"] == [3, 2]


@pytest.mark.parametrize("name", PLAIN)
def test_what_a_policy_forbids_costs_nothing(name: str, rush: Rush, vendors: Vendors, gateway: Gateway) -> None:
    """However a vendor says that it blocks a prompt, the caller is told by one code, and the vendor was asked once."""
    words, reply = rush[name, BLOCKED].result()
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_policy_violation"), reply.text
    assert len(vendors.named(name).of(words)) == 1
    assert charged(gateway.task(reply)) == 0


def test_openai_edits_by_a_mask(gateway: Gateway, vendors: Vendors) -> None:
    """A form of the SDK comes to the vendor as a form: picture and mask are what was sent, pixel by pixel."""
    words, image, mask = prompt(), drawn(), drawn("RGBA")
    raw: Any = gateway.sdk.images.with_raw_response.edit(
        model="gpt-image-2", prompt=words, image=("a.png", png(image)), mask=("m.png", png(mask)), size="1024x1024",
        response_format="url",
    )  # fmt: skip
    (order,) = gateway.check(Asked(words, raw.http_response), "gpt-image-2", vendors.openai)
    assert dict(order.members) == {"model": "gpt-image-2", "prompt": words, **SQUARE}
    assert set(order.pictures) == {"image", "mask"}
    assert shows(order.pictures["image"], image)
    assert shows(order.pictures["mask"], mask)


def test_openai_streams_through_to_the_sdk(gateway: Gateway, vendors: Vendors) -> None:
    """The vendor's previews and its picture arrive as events of the SDK, each as it was made, of one order."""
    words = prompt()
    stream = gateway.sdk.images.generate(
        model="gpt-image-2", prompt=words, size="1024x1024", stream=True, partial_images=2
    )
    *previews, last = list(stream)
    (order,) = vendors.openai.of(words)
    assert [one.type for one in previews] == ["image_generation.partial_image"] * 2
    assert [base64.b64decode(one.b64_json) for one in previews] == vendors.openai.previews[-2:]
    assert last.type == "image_generation.completed"
    assert base64.b64decode(last.b64_json) == order.made[0]
    assert last.usage.total_tokens == count(order, "total_tokens")
    assert (order.members["stream"], order.members["partial_images"]) == (True, 2)


def test_stability_paints_where_a_mask_says(gateway: Gateway, vendors: Vendors) -> None:
    """The picture arrives as it was sent, the mask turned into the vendor's kind: white where ours is transparent."""
    asked = edit(gateway, "stable-image-inpaint", ("image", drawn()), ("mask", drawn("RGBA")))
    (order,) = gateway.check(asked, "stable-image-inpaint", vendors.stability)
    white = Image.new("L", (64, 48), 0)
    white.paste(255, (0, 0, 32, 48))
    assert shows(order.pictures["image"], drawn())
    assert shows(order.pictures["mask"], white)


def test_comfyui_works_on_a_picture(gateway: Gateway, vendors: Vendors) -> None:
    """A picture is uploaded before its workflow is queued, which loads it under the name that the server gave."""
    asked = edit(gateway, "sd-1.5", ("image", drawn()))
    (order,) = gateway.check(asked, "sd-1.5", vendors.comfyui)
    assert shows(order.pictures["image"], drawn())


def test_comfyui_shows_previews_by_its_socket(gateway: Gateway, vendors: Vendors) -> None:
    """What the socket shows of a job is streamed to the SDK, and then the picture; one workflow was queued."""
    words = prompt()
    stream = gateway.sdk.images.generate(model="sd-1.5", prompt=words, size="512x512", stream=True, partial_images=2)
    *previews, last = list(stream)
    (order,) = vendors.comfyui.of(words)
    shown = [base64.b64decode(one.b64_json) for one in previews]
    assert len(shown) == 2
    assert set(shown) <= set(vendors.comfyui.previews)
    assert last.type == "image_generation.completed"
    assert base64.b64decode(last.b64_json) == order.made[0]


def test_comfyui_is_told_to_stop(gateway: Gateway, vendors: Vendors) -> None:
    """Cancelling a task cancels its job, and nothing is billed."""
    words = prompt(NEVER)
    reply = gateway.http.post(GENERATIONS, json={"model": "sd-1.5", "prompt": words, "async": True})
    gateway.wait_for_job(reply)
    gateway.http.post(f"/v1/tasks/{reply.json()['id']}/cancel")
    task = gateway.task(reply)
    (job,) = [one for one in vendors.comfyui.jobs.values() if one.order.prompt == words]
    assert (task["status"], job.status) == ("cancelled", "cancelled")
    assert task["cancellation"]["stopped"] == "at_provider"
    assert Decimal(task["cancellation"]["billed"]) == 0


def test_fal_works_on_a_picture(gateway: Gateway, vendors: Vendors) -> None:
    """A picture goes to the queue within the order, and its result is fetched from where the vendor keeps it."""
    asked = edit(gateway, "fal-ai/flux-pro/kontext", ("image", drawn()))
    (order,) = gateway.check(asked, "fal-ai/flux-pro/kontext", vendors.fal)
    assert shows(order.pictures["image_url"], drawn())


def test_minimax_works_on_a_picture(gateway: Gateway, vendors: Vendors) -> None:
    """A picture goes along within the order, and the tokens that the vendor counts are charged."""
    asked = edit(gateway, "MiniMax-H3-Image", ("image", drawn()), **SQUARE)
    (order,) = gateway.check(asked, "MiniMax-H3-Image", vendors.minimax)
    assert shows(order.pictures["0"], drawn())


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_minimax_calls_back_when_a_film_is_done(gateway: Gateway, vendors: Vendors) -> None:
    """The vendor tries the address out before it takes the order; its callback brings the film before a look is due."""
    words, image = prompt(), drawn(size=(640, 360))
    videos: Any = gateway.sdk.videos.with_raw_response
    raw = videos.create(model="MiniMax-Hailuo-2.3", prompt=words, seconds="6", input_reference=("a.png", png(image)))
    asked = Asked(words, raw.http_response)
    gateway.wait_for_job(asked.reply)
    assert vendors.minimax.finish(words) == 200
    (order,) = gateway.check(asked, "MiniMax-Hailuo-2.3", vendors.minimax)
    assert dict(order.members) == {"model": "MiniMax-Hailuo-2.3", "prompt": words, "duration": 6}
    assert shows(order.pictures["first_frame_image"], image)
    (look,) = vendors.minimax.looks(words)
    assert look.at - order.at < CARDS["minimax"].poll_after


def test_replicate_calls_back_with_a_signature(gateway: Gateway, vendors: Vendors) -> None:
    """A large picture is uploaded before the order. A webhook counts when Replicate has signed it, and then at once."""
    image = Image.effect_noise((800, 600), 200).convert("RGB")
    asked = edit(gateway, "black-forest-labs/flux-kontext-pro", ("image", image), **{"async": "true"})
    gateway.wait_for_job(asked.reply)
    assert vendors.replicate.finish(asked.prompt, forged=True) == 403
    looks = len(vendors.replicate.looks(asked.prompt))
    wait_for(lambda: len(vendors.replicate.looks(asked.prompt)) > looks)
    assert vendors.replicate.finish(asked.prompt) == 200
    (order,) = gateway.check(asked, "black-forest-labs/flux-kontext-pro", vendors.replicate)
    assert shows(order.pictures["input_image"], image)
    *_, before, after = vendors.replicate.looks(asked.prompt)
    assert after.at - before.at < CARDS["replicate"].poll_after


def test_stability_enlarges_by_a_job(enlarging: Asked, gateway: Gateway, vendors: Vendors) -> None:
    """The slow service is a job whose result is looked for no sooner than the vendor wants it."""
    (order,) = gateway.check(enlarging, ENLARGER, vendors.stability)
    assert shows(order.pictures["image"], drawn())
    look = vendors.stability.called("/v2beta/results/")[-1]
    assert look.at - order.at >= CARDS["stability"].poll_after


def test_the_books_agree(gateway: Gateway) -> None:
    """What all tasks were charged is what the key has spent, and nothing of it stays reserved."""
    tasks = gateway.http.get("/v1/tasks", params={"limit": 100}).json()["data"]
    usage = gateway.http.get("/v1/usage").json()
    assert {task["status"] for task in tasks} <= {"completed", "failed", "cancelled"}
    spent = sum(charged(task) for task in tasks)
    assert Decimal(usage["mediaUsage"]["totalCost"]) * 10**6 == Decimal(usage["budget"]["spent"]) * 10**6 == spent
    assert Decimal(usage["budget"]["reserved"]) == 0


def test_the_doctor_finds_every_credential_good(deployment: Deployment, vendors: Vendors) -> None:
    """Each vendor answers the doctor, who orders nothing."""
    with nothing_ordered(vendors):
        lines = deployment.command("doctor").splitlines()
    assert all(line.startswith("ok") for line in lines), lines
    assert {vendor.name for vendor in vendors} <= {line.split()[2] for line in lines if "  provider " in line}


@pytest.mark.parametrize("deployment", ["embedded"], indirect=True)
def test_the_doctor_finds_wrong_credentials(deployment: Deployment, vendors: Vendors) -> None:
    """Each vendor turns a wrong one away, and the doctor names its variable; no part of a deployment matters."""
    keys = {vendor.name: CARDS[vendor.name].credentials["api_key"] for vendor in vendors}
    with nothing_ordered(vendors):
        environ = deployment.environ | dict.fromkeys(keys.values(), "wrong")
        lines = run(["gateway", "doctor"], environ, deployment.folder, status=1).splitlines()
    found = {line.split()[2]: line for line in lines if line.startswith("FAIL")}
    assert set(found) == set(keys)
    assert all(f"does not accept the credential: check {keys[name]}." in line for name, line in found.items())


@contextmanager
def nothing_ordered(vendors: Vendors) -> Iterator[None]:
    """Fails unless all that each vendor is asked in the block is to read something."""
    before = [len(vendor.calls) for vendor in vendors]
    yield
    made = [vendor.calls[start:] for vendor, start in zip(vendors, before, strict=True)]
    assert [{call.method for call in calls} for calls in made] == [{"GET"}] * len(vendors)


def test_secrets_and_prompts_are_nowhere_else(deployment: Deployment, vendors: Vendors) -> None:
    """A credential goes to its vendor, as that, and is not kept; prompts are not logged; no path was made up."""
    kept = {str(path): path.read_bytes() for path in deployment.folder.rglob("*") if path.is_file()}
    kept["database"] = rows(deployment.environ.get("HELIOGRAPH_DATABASE_URL"))
    said = [told(vendor, call) for vendor in vendors for call in vendor.calls]
    for vendor in vendors:
        assert not [name for name, data in kept.items() if vendor.secret.encode() in data]
        assert not any(vendor.secret in one for one in said)
    logs = [data for name, data in kept.items() if name.endswith(".log")]
    assert logs
    assert not any(CANARY.encode() in log for log in logs)
    assert [vendor.strays for vendor in vendors] == [[]] * len(vendors)


def told(vendor: StandIn, call: Call) -> str:
    """All that a call says but for the vendor's credential where it belongs."""
    headers = dict(call.headers)
    if headers.get("authorization") == f"{vendor.scheme} {vendor.secret}" and call.to_api:
        del headers["authorization"]
    return f"{call.path} {headers} {call.body.decode('latin-1')}"


def rows(url: str | None) -> bytes:
    """All that a PostgreSQL database holds. SQLite's is a file."""

    async def read() -> str:
        db = Database(url or "")
        try:
            async with db.read() as connection:
                return str((await connection.execute(text("SELECT database_to_xml(true, true, '')"))).scalar())
        finally:
            await db.close()

    return asyncio.run(read()).encode() if url else b""
