"""Decodes what collectors get: sFlow version 5 (sflow.org) and IPFIX (RFC 7011). No I/O but one."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

SOURCE_IPV4, DESTINATION_IPV4, PACKETS, OBSERVATION_POINT = 8, 12, 2, 138
"""Numbers of information elements (IANA, "IPFIX Entities")."""

Template = list[tuple[int, int]]
"""Numbers and lengths of a record's fields; numbers of an enterprise are negative."""


@dataclass(frozen=True)
class FlowSample:
    """A sampled packet's first bytes, one of `rate`."""

    rate: int
    header: bytes

    @property
    def addresses(self) -> tuple[str, str] | None:
        """The IPv4 addresses of source and destination, if it is such a packet."""
        if self.header[12:14] != b"\x08\x00":
            return None
        source, destination = self.header[26:30], self.header[30:34]
        return str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination))


@dataclass(frozen=True)
class Sflow:
    """A datagram: the agent's address, flow samples, and how many samples of counters."""

    version: int
    agent: str
    samples: list[FlowSample]
    counters: int


def sflow(data: bytes) -> Sflow:
    """Decode a datagram; an agent has an IPv4 address."""
    version, kind = struct.unpack_from("!II", data)
    assert kind == 1, "the agent has an IPv4 address"
    agent = str(ipaddress.ip_address(data[8:12]))
    _domain, _sequence, _uptime, count = struct.unpack_from("!IIII", data, 12)
    samples: list[FlowSample] = []
    at, counters = 28, 0
    for _ in range(count):
        kind, length = struct.unpack_from("!II", data, at)
        at += 8
        if kind == 1:
            samples += _flow_sample(data[at : at + length])
        elif kind == 2:
            counters += 1
        at += length
    assert at == len(data), "nothing is left over"
    return Sflow(version, agent, samples, counters)


def _flow_sample(data: bytes) -> Iterator[FlowSample]:
    _sequence, _source, rate, _pool, _drops, _in, _out, records = struct.unpack_from("!8I", data)
    at = 32
    for _ in range(records):
        kind, length = struct.unpack_from("!II", data, at)
        at += 8
        if kind == 1:  # a raw packet header
            protocol, _frame, _stripped, size = struct.unpack_from("!IIII", data, at)
            assert protocol == 1, "Ethernet"
            yield FlowSample(rate, data[at + 16 : at + 16 + size])
        at += length


@dataclass
class Ipfix:
    """What an exporter told so far: its templates, and its records by their fields."""

    versions: set[int] = field(default_factory=set)
    domains: set[int] = field(default_factory=set)
    templates: dict[tuple[int, int], Template] = field(default_factory=dict)
    records: list[dict[int, bytes]] = field(default_factory=list)

    def take(self, data: bytes) -> None:
        """Decode a message; records without a known template are passed over."""
        version, length, _time, _sequence, domain = struct.unpack_from("!HHIII", data)
        assert length == len(data)
        self.versions.add(version)
        at = 16
        while at < length:
            kind, size = struct.unpack_from("!HH", data, at)
            body = data[at + 4 : at + size]
            if kind == 2:
                self._take_templates(domain, body)
            elif (domain, kind) in self.templates:
                self.domains.add(domain)
                self.records += _records(self.templates[domain, kind], body)
            at += size

    def flows(self) -> set[tuple[str, str]]:
        """Return the IPv4 addresses of source and destination of all records."""
        return {
            (
                str(ipaddress.ip_address(one[SOURCE_IPV4])),
                str(ipaddress.ip_address(one[DESTINATION_IPV4])),
            )
            for one in self.records
            if SOURCE_IPV4 in one
        }

    def _take_templates(self, domain: int, data: bytes) -> None:
        at = 0
        while at + 4 <= len(data):
            name, count = struct.unpack_from("!HH", data, at)
            at += 4
            fields: Template = []
            for _ in range(count):
                number, length = struct.unpack_from("!HH", data, at)
                at += 4
                if number & 0x8000:  # an enterprise's number follows
                    number, at = -(number & 0x7FFF), at + 4
                fields.append((number, length))
            self.templates[domain, name] = fields


def _records(template: Template, data: bytes) -> Iterator[dict[int, bytes]]:
    least, at = sum(1 if size == 0xFFFF else size for _, size in template), 0
    while len(data) - at >= least:  # the rest is padding
        record = {}
        for number, fixed in template:
            size = fixed
            if fixed == 0xFFFF:  # of variable length: one byte, or three
                size, at = data[at], at + 1
                if size == 255:
                    size, at = struct.unpack_from("!H", data, at)[0], at + 2
            record[number] = data[at : at + size]
            at += size
        yield record


class Collector:
    """Listens on UDP ports of *address* for both, and keeps what came."""

    def __init__(self, address: str) -> None:
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for one in self._sockets:
            one.bind((address, 0))
            one.setblocking(False)
        self.sflow_port, self.ipfix_port = (one.getsockname()[1] for one in self._sockets)
        self.sflows: list[Sflow] = []
        self.ipfix = Ipfix()

    def look(self) -> None:
        """Take what has come."""
        for data in _received(self._sockets[0]):
            self.sflows.append(sflow(data))
        for data in _received(self._sockets[1]):
            self.ipfix.take(data)

    def sampled(self) -> set[tuple[str, str]]:
        """Return the IPv4 addresses of source and destination of all sampled packets."""
        found = [sample.addresses for one in self.sflows for sample in one.samples]
        return {pair for pair in found if pair is not None}

    def close(self) -> None:
        """Stop listening."""
        for one in self._sockets:
            one.close()


def _received(one: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield one.recv(65_536)
