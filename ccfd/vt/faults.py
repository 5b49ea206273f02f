"""Which of libvirt's errors mean "try again", which "never", and which "not there"."""

from collections.abc import Callable
from typing import TypeVar

from ccfd.errors import CcfdError, Refused, Transient
from ccfd.vt import api

T = TypeVar("T")


def is_unreachable(exc: BaseException) -> bool:
    """Tell whether *exc* comes from the wire rather than from the hypervisor.

    "client socket is closed", "End of file while reading data" and a keepalive's timeout carry
    general codes (INTERNAL_ERROR, SYSTEM_ERROR): only their domain, VIR_FROM_RPC, tells.
    """
    return api.error_domain(exc) in api.WIRE_DOMAINS or api.error_code(exc) in api.UNREACHABLE_CODES


def translate(host: str, exc: BaseException) -> CcfdError:
    """Turn a `LibvirtError` of *host* into what a workflow can decide on."""
    if is_unreachable(exc):
        return unreachable(host, str(exc))
    if api.error_code(exc) in api.HOPELESS_CODES:
        return Refused(
            "hypervisor_error",
            f"libvirt on host {host} refused: {exc}; see its log, and ccfd check",
            details={"host": host},
        )
    return Transient(
        "hypervisor_error",
        f"libvirt on host {host} failed: {exc}",
        details={"host": host},
    )


def unreachable(host: str, why: str, retry_in: float | None = None) -> Transient:
    """Say that *host* cannot be reached, and what to look at."""
    return Transient(
        "host_unreachable",
        f"libvirt on host {host} cannot be reached: {why}; check that libvirtd runs there and "
        "that its URI and certificates are right (ccfd check)",
        details={"host": host},
        retry_in=retry_in,
    )


def absent(code: int, ask: Callable[[], T]) -> T | None:
    """Return what *ask* finds, or None where libvirt answers with the error *code*."""
    try:
        return ask()
    except api.LibvirtError as exc:
        if api.error_code(exc) != code:
            raise
        return None


def unless(codes: frozenset[int], do: Callable[[], object]) -> bool:
    """Do it; return False where libvirt answers with one of the error *codes*."""
    try:
        do()
    except api.LibvirtError as exc:
        if api.error_code(exc) not in codes:
            raise
        return False
    return True
