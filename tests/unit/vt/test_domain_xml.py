"""The domain's XML says what the machine says, and nothing that opens a door."""

import dataclasses
import xml.etree.ElementTree as ET

from ccfd.model.vm import Machine
from ccfd.vt import domain_xml, metadata

VM = "3f2b6c1e-8d4a-4b7e-9a51-0c9d2e7f1a34"
MACHINE = Machine(
    host="h1",
    vm=VM,
    name="web",
    slice="demo",
    kind="slice",
    cpu=2,
    ram=128,
    mac="02:e9:0a:00:00:02",
    tap="ccf-3f2b6c1e8d4",
    mtu=1450,
)


def tree(domain_type: domain_xml.DomainType = "qemu", machine: Machine = MACHINE) -> ET.Element:
    return ET.fromstring(domain_xml.definition(machine, "/pool", domain_type))


def test_a_domain_is_named_by_its_vm() -> None:
    domain = tree()
    assert domain.findtext("name") == f"ccf-{VM}"
    assert domain.findtext("uuid") == VM
    assert domain.findtext("title") == "demo/web"


def test_it_has_the_machines_size() -> None:
    domain = tree()
    memory = domain.find("memory")
    assert memory is not None
    assert (memory.text, memory.get("unit")) == ("128", "MiB")
    assert domain.findtext("vcpu") == "2"


def test_its_metadata_tells_whose_it_is() -> None:
    found = tree().find(f"metadata/{{{metadata.URI}}}vm")
    assert found is not None
    owner = metadata.read(ET.tostring(found, encoding="unicode"))
    assert owner == metadata.Owner(
        slice="demo",
        name="web",
        kind="slice",
        mac="02:e9:0a:00:00:02",
        digest=metadata.digest(MACHINE),
    )


def test_its_interface_is_the_machines_tap_without_checksum_offload() -> None:
    interface = tree().find("devices/interface[@type='ethernet']")
    assert interface is not None
    found = {child.tag: child.attrib for child in interface}
    assert found["mac"] == {"address": "02:e9:0a:00:00:02"}
    assert found["target"] == {"dev": "ccf-3f2b6c1e8d4"}
    assert found["mtu"] == {"size": "1450"}
    host = interface.find("driver/host")
    assert host is not None
    assert host.attrib == {"csum": "off"}


def test_its_files_are_in_the_pool() -> None:
    sources = [source.get("file") for source in tree().iterfind("devices/disk/source")]
    assert sources == [f"/pool/ccf-{VM}.qcow2", f"/pool/ccf-{VM}-seed.iso"]
    assert tree().find("devices/disk[@device='cdrom']/readonly") is not None


def test_its_screen_is_never_open_on_tcp() -> None:
    graphics = tree().find("devices/graphics")
    assert graphics is not None
    assert graphics.attrib == {"type": "vnc"}
    assert [listen.attrib for listen in graphics] == [{"type": "socket"}]


def test_it_has_a_serial_console_with_a_log_and_a_channel_for_the_agent() -> None:
    log = tree().find("devices/serial[@type='pty']/log")
    assert log is not None
    assert log.attrib == {"file": f"/pool/ccf-{MACHINE.vm}.log", "append": "off"}
    without = ET.fromstring(domain_xml.definition(MACHINE, "/pool", "kvm", serial_log=False))
    assert without.find("devices/serial[@type='pty']") is not None
    assert without.find("devices/serial/log") is None
    channel = tree().find("devices/channel/target")
    assert channel is not None
    assert channel.attrib == {"type": "virtio", "name": "org.qemu.guest_agent.0"}


def test_tcg_has_a_small_cache_and_kvm_the_hosts_processor() -> None:
    assert tree("qemu").findtext("features/tcg/tb-cache") == "32"
    assert tree("qemu").find("cpu") is None
    assert tree("kvm").find("features/tcg") is None
    assert tree("kvm").find("cpu[@mode='host-model']") is not None


def test_text_from_requests_cannot_leave_its_place() -> None:
    nasty = dataclasses.replace(MACHINE, name="</title><devices/>", slice='"&<')
    assert tree(machine=nasty).findtext("title") == '"&</</title><devices/>'


def test_the_digest_changes_with_the_machine_and_not_with_its_host() -> None:
    assert metadata.digest(MACHINE) == metadata.digest(dataclasses.replace(MACHINE, host="h2"))
    assert metadata.digest(MACHINE) != metadata.digest(dataclasses.replace(MACHINE, ram=256))


def test_the_digest_stays_the_same_from_release_to_release() -> None:
    known = "515b3dc2a45669fc2063ca7a625e0e9f4dfcbca81604a976c08f350d05eb8be7"
    assert metadata.digest(MACHINE) == known


def test_what_it_tells_of_its_vm_comes_back_and_makes_it_no_other_machine() -> None:
    told = dataclasses.replace(MACHINE, about='{"name":"<&>\\u0001"}')
    found = tree(machine=told).find(f"metadata/{{{metadata.URI}}}vm")
    assert found is not None
    owner = metadata.read(ET.tostring(found, encoding="unicode"))
    assert owner is not None
    assert owner.about == told.about
    assert owner.digest == metadata.digest(MACHINE)


def test_metadata_of_somebody_else_is_not_ours() -> None:
    assert metadata.read('<instance xmlns="http://openstack.org/nova">x</instance>') is None


def test_a_remote_hosts_screen_listens_where_its_qemu_conf_says() -> None:
    """Without an address: libvirt takes `vnc_listen`, the loopback where that is not set."""
    tree = ET.fromstring(domain_xml.definition(MACHINE, "/pool", "kvm", remote_screen=True))
    (graphics,) = tree.findall("devices/graphics")
    assert graphics.attrib == {"type": "vnc", "autoport": "yes"}
    assert [listen.attrib for listen in graphics] == [{"type": "address"}]
    local = ET.fromstring(domain_xml.definition(MACHINE, "/pool", "kvm"))
    assert [listen.attrib for listen in local.findall("devices/graphics/*")] == [{"type": "socket"}]
