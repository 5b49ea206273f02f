"""Which leases are told, and whose they are."""

from datetime import timedelta

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ccfd.http import leases
from ccfd.http.api import errors
from ccfd.network.leases import GivenLease
from tests.harness import Harness
from tests.unit.handlers.test_slice_story import VM


async def test_leases_are_told_with_their_vms_until_they_expire(harness: Harness) -> None:
    async with harness.running():
        made = await harness.ask("slice.create", slice="demo", gateway=False, vms=[VM])
    slice_, vm = made["result"], made["result"]["vms"][0]
    async with harness.database.read() as transaction:
        ends = int((transaction.now + timedelta(minutes=30)).timestamp())

    def given(vni: int) -> tuple[GivenLease, ...]:
        assert vni == slice_["vni"]
        return (
            GivenLease(expires=ends, mac="02:00:00:00:00:09", ip="10.0.0.10", name=None),
            GivenLease(expires=ends, mac=vm["mac"], ip=vm["ip"], name="an-old-name"),
            GivenLease(expires=ends - 3600, mac="02:00:00:00:00:08", ip="10.0.0.8", name=None),
        )

    application = web.Application(middlewares=[errors])
    application.add_routes(leases.routes(harness.database, given))
    async with TestClient(TestServer(application)) as client:
        async with client.get("/v1/slices/demo/leases") as answer:
            items = (await answer.json())["items"]
        async with client.get("/v1/slices/none/leases") as answer:
            assert answer.status == 404
    assert [(one["vm"], one["name"], one["ip"]) for one in items] == [
        (vm["vm"], vm["name"], vm["ip"]),
        (None, None, "10.0.0.10"),
    ]
    assert items[0]["renewed_at"] < items[0]["expires_at"]
