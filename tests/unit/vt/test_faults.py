"""libvirt's errors become the two words that a workflow knows."""

import libvirt
import pytest

from ccfd.errors import Refused, Transient
from ccfd.vt import api, faults


def error(code: int, domain: int = libvirt.VIR_FROM_QEMU, message: str = "told") -> Exception:
    made: Exception = libvirt.libvirtError(message)
    vars(made)["err"] = (code, domain, message, 2, None, None, None, -1, -1)
    return made


@pytest.mark.parametrize(
    ("code", "domain"),
    [
        (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_FROM_NONE),
        (libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_REMOTE),
        (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC),  # client socket is closed
        (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC),  # connection refused
    ],
)
def test_an_error_on_the_wire_means_unreachable(code: int, domain: int) -> None:
    fault = faults.translate("h1", error(code, domain))
    assert isinstance(fault, Transient)
    assert fault.code == "host_unreachable"
    assert fault.details == {"host": "h1"}


def test_an_error_that_will_not_pass_is_refused_with_libvirts_words() -> None:
    fault = faults.translate("h1", error(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, message="no such bus"))
    assert isinstance(fault, Refused)
    assert fault.code == "hypervisor_error"
    assert "no such bus" in fault.message


def test_any_other_error_may_pass() -> None:
    fault = faults.translate("h1", error(libvirt.VIR_ERR_OPERATION_FAILED))
    assert isinstance(fault, Transient)
    assert fault.code == "hypervisor_error"


def raising(exc: Exception) -> None:
    raise exc


def test_absence_is_an_answer_and_other_errors_are_not() -> None:
    assert faults.absent(api.NO_DOMAIN, lambda: raising(error(api.NO_DOMAIN))) is None
    with pytest.raises(libvirt.libvirtError):
        faults.absent(api.NO_DOMAIN, lambda: raising(error(api.NO_STORAGE_VOL)))


def test_an_error_that_was_expected_is_told_and_others_are_raised() -> None:
    assert faults.unless(frozenset(), lambda: None)
    assert not faults.unless(frozenset({5}), lambda: raising(error(5)))
    with pytest.raises(libvirt.libvirtError):
        faults.unless(frozenset({5}), lambda: raising(error(6)))
