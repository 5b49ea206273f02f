"""What a slice costs without ccfd: the same calls, in the best order, and nothing else.

It looks nothing up, remembers nothing, checks nothing and could undo nothing. It runs on the
lab's network node, keeps its connections open as ccfd does, and makes and removes a slice for
each line on its standard input, answering with the seconds that the making took.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt

from ccfd import settings
from ccfd.model import names
from ccfd.model.network import Dhcp, Lease
from ccfd.model.vm import Machine
from ccfd.network import dhcp_files
from ccfd.network.ovsdb import Ovsdb
from ccfd.settings import Host, Settings
from ccfd.vt import domain_xml, seed

VNI = 9_000_001
SLICE = "bare"
ADDRESS = "10.250.0.1/26"
GIB = 1 << 30


class Bare:
    """Connections to everything, and the calls."""

    def __init__(self, config: Settings, image: str) -> None:
        self._config = config
        self._image = image
        self._threads = ThreadPoolExecutor(2 * len(config.host))
        self._libvirt = {host.name: libvirt.open(host.libvirt) for host in config.host}
        self._pools = {
            name: connection.storagePoolLookupByName("ccf-images")
            for name, connection in self._libvirt.items()
        }
        self._switches = {
            name: Ovsdb(address, config.tls)
            for name, address in (
                *((host.name, host.ovsdb) for host in config.host),
                (names.NODE, config.network_node.ovsdb),
            )
        }
        self._place = Path(config.network_node.state) / "bare"
        self._place.mkdir(parents=True, exist_ok=True)
        self._domains: list[tuple[Host, Machine]] = []

    async def make(self) -> None:
        """Make a slice with a VM on each host, everything at once."""
        loop = asyncio.get_running_loop()
        self._domains = [
            (host, self._machine(host, number))
            for number, host in enumerate(self._config.host, start=2)
        ]
        async with asyncio.TaskGroup() as group:
            for host, machine in self._domains:
                loop_call = loop.run_in_executor(self._threads, self._boot, host, machine)
                group.create_task(_wait(loop_call))
                node = self._config.network_node.tunnel_ip
                group.create_task(
                    self._bridge(
                        host.name, host.datapath_type, host.tunnel_ip, [node], [machine.tap]
                    )
                )
            group.create_task(
                self._bridge(
                    names.NODE,
                    self._config.network_node.datapath_type,
                    self._config.network_node.tunnel_ip,
                    [host.tunnel_ip for host in self._config.host],
                    [names.inside_port(VNI)],
                )
            )
            group.create_task(self._namespace_and_dhcp())

    def _machine(self, host: Host, number: int) -> Machine:
        vm, ip = str(uuid4()), f"10.250.0.{number}"
        return Machine(
            host=host.name,
            vm=vm,
            name=host.name,
            slice=SLICE,
            kind="slice",
            cpu=1,
            ram=128,
            mac=names.mac(ip, VNI),
            tap=names.tap(vm),
            mtu=self._config.vm_mtu,
        )

    def _boot(self, host: Host, machine: Machine) -> None:
        pool = self._pools[host.name]
        base = f"{self._config.hypervisor.pool}/{self._image}"
        pool.createXML(
            f"<volume><name>{names.disk_volume(machine.vm)}</name><capacity>{GIB}</capacity>"
            "<target><format type='qcow2'/></target><backingStore>"
            f"<path>{base}</path><format type='qcow2'/></backingStore></volume>"
        )
        content = seed.build(machine.vm, machine.name, ())
        volume = pool.createXML(
            f"<volume><name>{names.seed_volume(machine.vm)}</name>"
            f"<capacity>{len(content)}</capacity><target><format type='raw'/></target></volume>"
        )
        stream = self._libvirt[host.name].newStream()
        volume.upload(stream, 0, len(content))
        stream.send(content)
        stream.finish()
        xml = domain_xml.definition(machine, self._config.hypervisor.pool, "qemu")
        self._libvirt[host.name].defineXML(xml).create()

    async def _bridge(
        self, switch: str, datapath: str, local: str, peers: list[str], links: list[str]
    ) -> None:
        bridge = names.bridge(VNI)
        operations: list[dict[str, Any]] = []
        ports = [["named-uuid", "p0"]]

        def port(number: int, name: str, row: dict[str, Any]) -> None:
            operations.append(
                {
                    "op": "insert",
                    "table": "Interface",
                    "uuid-name": f"i{number}",
                    "row": {"name": name, "external_ids": ["map", [["ccf-slice", SLICE]]], **row},
                }
            )
            operations.append(
                {
                    "op": "insert",
                    "table": "Port",
                    "uuid-name": f"p{number}",
                    "row": {"name": name, "interfaces": ["named-uuid", f"i{number}"]},
                }
            )

        port(0, bridge, {"type": "internal"})
        for number, peer in enumerate(peers, start=1):
            options = [["remote_ip", peer], ["local_ip", local], ["key", str(VNI)]]
            row = {"type": "vxlan", "options": ["map", options]}
            port(number, names.tunnel(VNI, peer), row)
            ports.append(["named-uuid", f"p{number}"])
        for number, link in enumerate(links, start=100):
            port(number, link, {})
            ports.append(["named-uuid", f"p{number}"])
        operations += [
            {
                "op": "insert",
                "table": "Bridge",
                "uuid-name": "b",
                "row": {
                    "name": bridge,
                    "datapath_type": datapath,
                    "fail_mode": "standalone",
                    "external_ids": ["map", [["ccf-slice", SLICE]]],
                    "ports": ["set", ports],
                },
            },
            {
                "op": "mutate",
                "table": "Open_vSwitch",
                "where": [],
                "mutations": [["bridges", "insert", ["set", [["named-uuid", "b"]]]]],
            },
        ]
        await self._switches[switch].transact_applied(operations)

    async def _namespace_and_dhcp(self) -> None:
        space, outer = names.namespace(VNI), names.inside_port(VNI)
        mac = names.mac("10.250.0.1", VNI)
        mtu = self._config.vm_mtu
        await _command("ip", "netns", "add", space)
        await _command(
            "ip",
            "-batch",
            "-",
            text=f"link add {outer} mtu {mtu} type veth peer name inside netns {space}"
            f" address {mac} mtu {mtu}\nlink set {outer} up\n",
        )
        await _command(
            "ip",
            "-netns",
            space,
            "-batch",
            "-",
            text=f"link set lo up\naddress add {ADDRESS} dev inside\nlink set inside up\n",
        )
        await _command("ip", "netns", "exec", space, "ethtool", "-K", "inside", "tx", "off")
        leases = tuple(
            Lease(mac=machine.mac, ip=f"10.250.0.{number}", name=machine.name)
            for number, (_host, machine) in enumerate(self._domains, start=2)
        )
        dhcp = Dhcp(slice=SLICE, vni=VNI, address=ADDRESS, mtu=mtu, leases=leases)
        files = dhcp_files.render(dhcp, self._place, user="root")
        (self._place / dhcp_files.CONFIG).write_text(files.config)
        (self._place / dhcp_files.HOSTS).write_text(files.hosts)
        config = self._place / dhcp_files.CONFIG
        await _command("ip", "netns", "exec", space, "dnsmasq", f"--conf-file={config}")

    async def remove(self) -> None:
        """Take it all away again."""
        pid = int((self._place / dhcp_files.PID).read_text())
        signal.pidfd_send_signal(_pidfd(pid), signal.SIGTERM)
        for host, machine in self._domains:
            domain = self._libvirt[host.name].lookupByUUIDString(machine.vm)
            domain.destroy()
            domain.undefine()
            for name in (names.disk_volume(machine.vm), names.seed_volume(machine.vm)):
                self._pools[host.name].storageVolLookupByName(name).delete()
        for switch in self._switches.values():
            (found,) = await switch.transact(
                [
                    {
                        "op": "select",
                        "table": "Bridge",
                        "columns": ["_uuid"],
                        "where": [["name", "==", names.bridge(VNI)]],
                    }
                ]
            )
            gone = [row["_uuid"] for row in found["rows"]]
            await switch.transact_applied(
                [
                    {
                        "op": "mutate",
                        "table": "Open_vSwitch",
                        "where": [],
                        "mutations": [["bridges", "delete", ["set", gone]]],
                    }
                ]
            )
        await _command("ip", "link", "delete", names.inside_port(VNI))
        await _command("ip", "netns", "delete", names.namespace(VNI))


def _pidfd(pid: int) -> int:
    import os

    return os.pidfd_open(pid)


async def _wait(future: asyncio.Future[None]) -> None:
    await future


async def _command(*argv: str, text: str = "") -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    await process.communicate(text.encode())
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)}: status {process.returncode}")


async def main(config: Path, image: str) -> None:
    """Serve rounds until standard input ends."""
    bare = Bare(settings.load(config), image)
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        began = time.perf_counter()
        await bare.make()
        seconds = time.perf_counter() - began
        await bare.remove()
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    libvirt.virEventRegisterDefaultImpl()
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
