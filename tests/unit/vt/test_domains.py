"""How a domain is brought to running from the state that it is found in."""

from typing import Any

import libvirt
import pytest

from ccfd.errors import Transient
from ccfd.vt.domains import _run
from tests.unit.vt.test_faults import error


class Domain:
    """A domain whose states are told one after another; what is asked of it is refused or not."""

    def __init__(self, *states: int, refuses: bool = False) -> None:
        self._states = list(states)
        self._refuses = refuses
        self.asked: list[str] = []

    def name(self) -> str:
        return "ccf-a"

    def state(self) -> list[int]:
        return [self._states.pop(0), 0]

    def _do(self, what: str) -> None:
        self.asked.append(what)
        if self._refuses:
            raise error(libvirt.VIR_ERR_OPERATION_INVALID, message="domain is already running")

    def resume(self) -> None:
        self._do("resume")

    def create(self) -> None:
        self._do("create")

    def pMWakeup(self) -> None:  # noqa: N802 - libvirt's name
        self._do("wake up")


class Session:
    host = "h1"

    def check(self) -> None:
        pass


def run(domain: Any) -> None:
    session: Any = Session()
    _run(session, domain)


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (libvirt.VIR_DOMAIN_RUNNING, []),
        (libvirt.VIR_DOMAIN_PAUSED, ["resume"]),
        (libvirt.VIR_DOMAIN_PMSUSPENDED, ["wake up"]),
        (libvirt.VIR_DOMAIN_SHUTOFF, ["create"]),
        (libvirt.VIR_DOMAIN_CRASHED, ["create"]),
    ],
)
def test_a_domain_is_brought_to_running_from_where_it_is(state: int, asked: list[str]) -> None:
    domain = Domain(state)
    run(domain)
    assert domain.asked == asked


@pytest.mark.parametrize("state", [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF])
def test_one_that_an_earlier_call_has_started_meanwhile_is_well(state: int) -> None:
    run(Domain(state, libvirt.VIR_DOMAIN_RUNNING, refuses=True))


@pytest.mark.parametrize("state", [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF])
def test_one_that_still_does_not_run_is_tried_again(state: int) -> None:
    with pytest.raises(Transient, match="did not start"):
        run(Domain(state, libvirt.VIR_DOMAIN_PAUSED, refuses=True))
