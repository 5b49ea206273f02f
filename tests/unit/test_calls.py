"""Calls to hosts are noted for whoever wants to know, also from within other tasks."""

import asyncio

import pytest

from ccfd.calls import KEPT, collected, noted


async def test_calls_of_side_tasks_are_collected() -> None:
    async def call(what: str) -> None:
        with noted("ovsdb", "h1", what):
            await asyncio.sleep(0)

    with collected() as calls:
        async with asyncio.TaskGroup() as group:
            for what in ("a", "b"):
                group.create_task(call(what))
    assert [one["what"] for one in calls] == ["a", "b"]
    assert {one["error"] for one in calls} == {None}


def test_a_failed_call_says_why() -> None:
    with (
        collected() as calls,
        pytest.raises(ValueError, match="no"),
        noted("libvirt", "h1", "boot"),
    ):
        raise ValueError("no")
    assert calls[0]["error"] == "no"
    assert calls[0]["where"] == "h1"


def test_nobody_has_to_listen_and_nobody_gets_too_much() -> None:
    with noted("libvirt", "h1", "boot"):
        pass
    with collected() as calls:
        for _ in range(KEPT + 5):
            with noted("libvirt", "h1", "boot"):
                pass
    assert len(calls) == KEPT
