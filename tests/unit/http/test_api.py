"""What the API answers, to whom."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientTimeout
from aiohttp.test_utils import TestClient, TestServer

from ccfd.http.api import Api
from ccfd.http.metrics import Metrics
from ccfd.http.stream import Stream
from ccfd.settings import Http, Settings, Token
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import VM
from tests.unit.workflow.test_interventions import stick


class Knows:
    def broker_connected(self) -> bool:
        return False

    def broker_consuming(self) -> bool:
        return False

    def database_up(self) -> bool:
        return True


def token(role: str) -> Token:
    import hashlib

    digest = hashlib.sha256(f"the-{role}-token".encode()).hexdigest()
    return Token.model_validate({"name": role, "role": role, "sha256": digest})


class Served:
    """The API over a harness, to be asked as somebody."""

    def __init__(self, harness: Harness, client: Any, problems: dict[str, str]) -> None:
        self.harness = harness
        self.client = client
        self.problems = problems

    async def ask(
        self, method: str, path: str, body: Any = None, role: str | None = "operator"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer the-{role}-token"} if role else {}
        data = None if body is None else json.dumps(body)
        async with self.client.request(method, path, data=data, headers=headers) as answer:
            text = await answer.text()
            if answer.content_type == "application/json":
                return answer.status, json.loads(text)
            return answer.status, text


@pytest.fixture
async def served(harness: Harness) -> AsyncIterator[Served]:
    roles = ("viewer", "portal", "operator")
    settings: Settings = harness.settings.model_copy(
        update={"http": Http(token=tuple(token(role) for role in roles))}
    )
    problems: dict[str, str] = {}
    stream = Stream(harness.database)
    api = Api(
        settings,
        database=harness.database,
        intake=harness.intake,
        records=harness.records,
        interventions=harness.interventions,
        stream=stream,
        metrics=Metrics(Knows()),
        problems=lambda: problems,
    )
    server = TestServer(api.application(None))
    async with (
        asyncio.TaskGroup() as group,
        harness.running(),
        TestClient(server, timeout=ClientTimeout(total=60)) as client,
    ):
        reading = group.create_task(stream.run())
        yield Served(harness, client, problems)
        reading.cancel()


SUBNET = {"type": "subnet.create", "data": {"owner": "demo"}}


async def test_health_needs_no_token(served: Served) -> None:
    assert (await served.ask("GET", "/healthz", role=None))[0] == 200
    assert (await served.ask("GET", "/readyz", role=None))[0] == 200
    served.problems["broker"] = "not connected yet"
    status, body = await served.ask("GET", "/readyz", role=None)
    assert status == 503
    assert body["problems"] == {"broker": "not connected yet"}


async def test_everything_else_wants_a_token(served: Served) -> None:
    for role in (None, "wrong"):
        status, body = await served.ask("GET", "/v1/hosts", role=role)
        assert status == 401
        assert "Bearer" in body["error"]["message"]


@pytest.mark.parametrize(
    ("role", "event", "status"),
    [
        ("viewer", SUBNET, 403),
        ("portal", SUBNET, 200),
        ("operator", SUBNET, 200),
        ("portal", {"type": "host.drain", "data": {"host": "h1"}}, 403),
    ],
)
async def test_a_role_may_send_what_it_may(
    served: Served, role: str, event: dict[str, Any], status: int
) -> None:
    got, _ = await served.ask("POST", "/v1/events?wait=5", event, role)
    assert got == status


async def test_an_event_is_carried_out_once_whatever_its_copies(served: Served) -> None:
    event = {**SUBNET, "id": "one"}
    first = await served.ask("POST", "/v1/events?wait=5", event)
    again = await served.ask("POST", "/v1/events?wait=5", event)
    assert first == again
    assert first[1]["result"]["subnet"] == "10.0.0.1/26"
    status, accepted = await served.ask("POST", "/v1/events", event)
    assert (status, accepted) == (202, {"request_id": "one"})
    _, request = await served.ask("GET", "/v1/requests/one")
    assert request["state"] == "succeeded"
    assert request["key"] == "slice:demo"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"type": "no.such", "data": {}}, 400, "unknown_type"),
        (
            {"type": "subnet.create", "data": {"owner": "demo", "ipcount": 9}},
            400,
            "invalid_ipcount",
        ),
        ({"type": "subnet.create", "data": {}}, 400, "invalid_message"),
        ({"type": "subnet.create", "data": [], "id": "x"}, 400, "invalid_message"),
        ({"type": 5}, 400, "invalid_message"),
        ({"type": "subnet.create", "colour": 1}, 400, "invalid_message"),
        ({"type": "subnet.create", "id": ""}, 400, "invalid_message"),
        ([], 400, "invalid_message"),
    ],
)
async def test_nonsense_is_told_at_once(served: Served, body: Any, status: int, code: str) -> None:
    got, answer = await served.ask("POST", "/v1/events", body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert served.harness.dead == []


async def test_documents_and_lists(served: Served) -> None:
    event = {
        "type": "slice.create",
        "data": {"slice": "demo", "gateway": False, "vms": [VM, VM, VM]},
    }
    _, made = await served.ask("POST", "/v1/events?wait=5", event)
    _, document = await served.ask("GET", "/v1/slices/demo")
    assert document == made["result"]
    _, page = await served.ask("GET", "/v1/vms?limit=2")
    assert len(page["items"]) == 2
    _, rest = await served.ask("GET", f"/v1/vms?limit=2&after={page['next']}")
    assert rest["next"] is None
    ids = {vm["vm"] for vm in page["items"] + rest["items"]}
    assert ids == {vm["vm"] for vm in document["vms"]}
    _, on_h1 = await served.ask("GET", "/v1/vms?host=h1")
    assert {vm["host"] for vm in on_h1["items"]} == {"h1"}
    for name in ("slices", "subnets", "networks", "hosts", "flavors", "images", "workflows"):
        status, listed = await served.ask("GET", f"/v1/{name}")
        assert status == 200
        assert listed["items"], name
    _, hosts = await served.ask("GET", "/v1/hosts/h1")
    assert hosts["cpu"] == {"total": 8, "used": 2}
    status, missing = await served.ask("GET", "/v1/slices/nope")
    assert (status, missing["error"]["code"]) == (404, "slice_not_found")
    status, wrong = await served.ask("GET", "/v1/vms?colour=red")
    assert (status, wrong["error"]["code"]) == (400, "invalid_message")
    for limit in ("0", "1001", "x"):
        assert (await served.ask("GET", f"/v1/vms?limit={limit}"))[0] == 400
    status, lost = await served.ask("GET", "/v2/nope")
    assert status == 404
    assert "error" in lost


async def test_a_plan_changes_nothing(served: Served) -> None:
    before = await served.harness.claims()
    event = {
        "type": "slice.create",
        "data": {"slice": "demo", "gateway": False, "vms": [{**VM, "name": "a"}]},
    }
    status, plan = await served.ask("POST", "/v1/plan", event, "viewer")
    assert status == 200
    assert [step["name"] for step in plan["steps"]][-1] == "boot"
    assert plan["plan"]["slice"]["vms"][0]["ip"] == "10.0.0.2"
    assert await served.harness.claims() == before
    event["data"]["vms"] = [{**VM, "ram": None}]  # type: ignore[index]  # a JSON object
    assert (await served.ask("POST", "/v1/plan", event, "viewer"))[0] == 400


async def test_metrics_speak_of_what_there_is(served: Served) -> None:
    await served.ask("POST", "/v1/events?wait=5", SUBNET)
    _, text = await served.ask("GET", "/metrics", role=None)
    assert 'ccfd_host_up{host="h1"} 1.0' in text
    assert 'ccfd_subnets{network="10.0.0.0/8",state="reserved"} 1.0' in text
    assert 'ccfd_addresses{network="10.0.0.0/8",state="used"} 64.0' in text
    assert "ccfd_build_info{version=" in text


async def test_a_stuck_request_is_counted_until_somebody_looks_after_it(served: Served) -> None:
    request = await stick(served.harness)
    _, text = await served.ask("GET", "/metrics", role=None)
    assert 'ccfd_workflows{state="stuck"} 1.0' in text
    status, told = await served.ask("POST", f"/v1/requests/{request}/abandon", role="portal")
    assert status == 403, told
    status, told = await served.ask("POST", f"/v1/requests/{request}/abandon")
    assert (status, told["state"]) == (200, "failed")
    _, text = await served.ask("GET", "/metrics", role=None)
    assert 'ccfd_workflows{state="stuck"}' not in text


async def test_events_are_streamed_from_now_and_from_an_id_on(served: Served) -> None:
    headers = {"Authorization": "Bearer the-viewer-token"}
    async with served.client.get("/v1/events?slice=demo", headers=headers) as stream:
        await served.ask("POST", "/v1/events?wait=5", {**SUBNET, "data": {"owner": "other"}})
        await served.ask("POST", "/v1/events?wait=5", SUBNET)
        first, last = await _next(stream), await _next(stream)
    assert first["event"] == "subnet.create.accepted"
    assert last["event"] == "subnet.create.succeeded"
    assert json.loads(last["data"])["slice"] == "demo"
    async with served.client.get(
        "/v1/events", headers={**headers, "Last-Event-ID": first["id"]}
    ) as stream:
        assert await _next(stream) == last


async def _next(stream: Any) -> dict[str, str]:
    """Read the next server-sent event, passing over comments."""
    found: dict[str, str] = {}
    while True:
        line = (await stream.content.readline()).decode().rstrip("\n")
        if not line and found:
            return found
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value


async def test_history_tells_what_was_asked_and_done(served: Served) -> None:
    create = {"slice": "demo", "gateway": False, "vms": [{**VM, "name": "a"}]}
    _, made = await served.ask(
        "POST", "/v1/events?wait=5", {"type": "slice.create", "id": "first", "data": create}
    )
    vm = made["result"]["vms"][0]["vm"]
    await served.ask("POST", "/v1/events?wait=5", {"type": "vm.delete", "data": {"vm": vm}})
    for name in ("demo", vm):
        _, history = await served.ask("GET", f"/v1/history/{name}", role="viewer")
        assert [item["type"] for item in history["items"]] == ["slice.create", "vm.delete"]
        first = history["items"][0]
        assert first["message"]["body"] == create
        assert first["steps"][0]["args"]["slice"] == "demo"
        assert first["steps"][0]["calls"] == []
    _, one = await served.ask("GET", "/v1/history/first")
    assert [item["request_id"] for item in one["items"]] == ["first"]
    assert (await served.ask("GET", "/v1/history/nothing"))[0] == 404


async def test_openapi_tells_every_route_and_every_event(served: Served) -> None:
    status, told = await served.ask("GET", "/openapi.json", role="viewer")
    assert status == 200
    for path in ("/healthz", "/v1/slices/{name}", "/v1/requests/{name}", "/v1/plan"):
        assert "get" in told["paths"][path] or "post" in told["paths"][path]
    listed = {one["name"] for one in told["paths"]["/v1/vms"]["get"]["parameters"]}
    assert {"limit", "after", "slice", "host"} <= listed
    kinds = {
        one["properties"]["type"]["const"]
        for one in told["components"]["schemas"]["Event"]["oneOf"]
    }
    assert kinds == set(served.harness.handlers)
    assert all(
        operation["summary"] for path in told["paths"].values() for operation in path.values()
    )
