"""What a VM may send and what not, frame by frame, and which of it comes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.host.switch import AMPLE, CLONE_NEWNET, LIBC, Guest, system_call


def frame(mac: str, kind: int, payload: bytes, to: str = "ff:ff:ff:ff:ff:ff") -> bytes:
    """Build a frame; its payload is padded, so that a word at its end tells it from others."""
    addresses = bytes.fromhex((to + mac).replace(":", ""))
    return addresses + kind.to_bytes(2) + payload


def ipv4(source: str, payload: bytes, protocol: int = 17, to: str = "255.255.255.255") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + (~total & 0xFFFF).to_bytes(2) + head[12:] + payload


def ipv6(payload: bytes, protocol: int) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, "fe80::9") + bytes.fromhex("ff02" + "00" * 13 + "01")
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + ends + payload


def udp(source: int, target: int, word: bytes) -> bytes:
    return struct.pack("!HHHH", source, target, 8 + len(word), 0) + word


def arp(mac: str, address: str, word: bytes) -> bytes:
    sender = bytes.fromhex(mac.replace(":", "")) + socket.inet_aton(address)
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + bytes(6) + bytes(4) + word


def frames(guest: Guest, other: Guest) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return what a VM may send and what not: by a word that each carries, its last the end."""
    own, mine, foreign = guest.mac, guest.address, other.mac
    allowed = {
        "own-ip": lambda word: frame(own, 0x0800, ipv4(mine, udp(5000, 5000, word))),
        "dhcp-ask": lambda word: frame(own, 0x0800, ipv4("0.0.0.0", udp(68, 67, word))),
        "own-arp": lambda word: frame(own, 0x0806, arp(own, mine, word)),
        "arp-probe": lambda word: frame(own, 0x0806, arp(own, "0.0.0.0", word)),
        "own-type": lambda word: frame(own, 0x88B5, word),
        "ipv6": lambda word: frame(own, 0x86DD, ipv6(udp(5000, 5000, word), 17)),
        "the-end": lambda word: frame(own, 0x88B5, word),
    }
    tagged = (7).to_bytes(2) + (0x0800).to_bytes(2)
    refused = {
        "foreign-mac": lambda word: frame(foreign, 0x0800, ipv4(mine, udp(5000, 5000, word))),
        "foreign-ip": lambda word: frame(own, 0x0800, ipv4(other.address, udp(5000, 5000, word))),
        "foreign-type": lambda word: frame(foreign, 0x88B5, word),
        "no-address": lambda word: frame(own, 0x0800, ipv4("0.0.0.0", udp(5000, 5000, word))),
        "arp-spoof": lambda word: frame(own, 0x0806, arp(own, "10.0.0.1", word)),
        "arp-other": lambda word: frame(own, 0x0806, arp(foreign, mine, word)),
        "dhcp-serve": lambda word: frame(own, 0x0800, ipv4(mine, udp(67, 68, word))),
        "dhcpv6": lambda word: frame(own, 0x86DD, ipv6(udp(547, 546, word), 17)),
        "router": lambda word: frame(own, 0x86DD, ipv6(b"\x86" + bytes(15) + word, 58)),
        "redirect": lambda word: frame(own, 0x86DD, ipv6(b"\x89" + bytes(15) + word, 58)),
        "in-vlan": lambda word: frame(
            own, 0x8100, tagged + ipv4(other.address, udp(5000, 5000, word))
        ),
    }

    def built(makers: dict[str, Callable[[bytes], bytes]]) -> dict[str, bytes]:
        return {name: make(name.encode().ljust(40, b".")) for name, make in makers.items()}

    return built(allowed), built(refused)


def packets_of(guest: Guest) -> socket.socket:
    """Open the guest's end of its link, for whole frames."""

    def enter() -> socket.socket:
        fd = os.open(f"/run/netns/{guest.space}", os.O_RDONLY)
        system_call(LIBC.setns(fd, CLONE_NEWNET))
        os.close(fd)
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth0", 0))
        opened.settimeout(AMPLE)
        return opened

    with ThreadPoolExecutor(1) as thread:  # it may stay in there
        return thread.submit(enter).result()


def arrive(sender: Guest, receiver: Guest) -> set[str]:
    """Send all frames that there are; tell which of them come."""
    allowed, refused = frames(sender, receiver)
    known = {**refused, **allowed}
    with packets_of(sender) as out, packets_of(receiver) as into:
        for one in known.values():
            out.send(one)
        came: set[str] = set()
        with contextlib.suppress(TimeoutError):
            while True:
                got = into.recv(2048)
                came |= {name for name in known if name.encode() in got}
                if came >= allowed.keys():  # a switch may send some a little later
                    into.settimeout(0.3)
    return came
