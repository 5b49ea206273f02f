"""A host runs KVM guests when its capabilities say so."""

import pytest

from ccfd.vt.capacity import offers_kvm


@pytest.mark.parametrize(
    ("types", "offered"),
    [("<domain type='qemu'/>", False), ("<domain type='qemu'/><domain type='kvm'/>", True)],
)
def test_kvm_is_offered_where_a_64_bit_guest_may_use_it(types: str, offered: bool) -> None:
    arch = f"<guest><os_type>hvm</os_type><arch name='x86_64'>{types}</arch></guest>"
    other = "<guest><arch name='i686'><domain type='kvm'/></arch></guest>"
    assert offers_kvm(f"<capabilities>{other}{arch}</capabilities>") is offered
