"""Which hosts there are, as placement sees them: a column a property, a place in it a host.

Ten thousand hosts are looked through in well under a millisecond that way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Truths = NDArray[np.bool_]
Numbers = NDArray[np.int64]

SIZES = ("cpu", "ram", "disk")
"""The rows of `used` and `limit`: vCPUs, MiB, GiB."""


class HostRow(NamedTuple):
    """One host: its room, which VMs of the slice it has, which images (checksums) are there."""

    name: str
    island: str
    state: str
    cpu_used: int
    ram_used: int
    disk_used: int
    cpu_limit: int
    ram_limit: int
    disk_limit: int
    vms: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a VM needs: vCPUs, MiB, GiB, an image (its checksum), and where it may be."""

    name: str
    cpu: int
    ram: int
    disk: int
    island: str
    image: str = ""
    host: str | None = None
    same_host: tuple[str, ...] = ()
    different_host: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hosts:
    """Hosts in the order of their names. No column is ever changed."""

    names: tuple[str, ...]
    states: tuple[str, ...]
    islands: tuple[str, ...]
    up: Truths
    on: Mapping[str, Truths]
    """For each island, the hosts on it."""
    used: Numbers
    limit: Numbers
    scale: NDArray[np.float64]
    """What one more of each size adds to a host's load, in millionths."""
    vms: Numbers
    """How many VMs of the slice each host has."""
    where: Mapping[str, int]
    """The place of the host that has the slice's VM of that name."""
    images: Mapping[str, Truths]
    """For each checksum, the hosts where that image is."""

    @classmethod
    def of(cls, rows: Iterable[HostRow]) -> "Hosts":
        """Make columns of *rows*."""
        known = sorted(rows)
        # Even of no hosts there are columns.
        names, islands, states, *sizes = zip(*known, strict=True) if known else ((),) * 11
        *room, vms, images = sizes
        used, limit = np.array(room[:3], dtype=np.int64), np.array(room[3:], dtype=np.int64)
        place = np.array(islands, dtype=object)
        return cls(
            names=names,
            states=states,
            islands=islands,
            up=np.array([state == "up" for state in states], dtype=np.bool_),
            on={island: place == island for island in set(islands)},
            used=used,
            limit=limit,
            scale=1e6 / np.maximum(limit, 1),
            vms=np.array(list(map(len, vms)), dtype=np.int64),
            where={vm: at for at, here in enumerate(vms) if here for vm in here},
            images={
                image: np.array([image in here for here in images], dtype=np.bool_)
                for image in {image for here in images for image in here}
            },
        )

    def having(self, want: Want, place: int) -> "Hosts":
        """Return the hosts with the VM *want* on the one at *place*."""
        used, vms = self.used.copy(), self.vms.copy()
        used[:, place] += (want.cpu, want.ram, want.disk)
        vms[place] += 1
        there = self.with_image(want.image).copy()
        there[place] = True
        return replace(
            self,
            used=used,
            vms=vms,
            where={**self.where, want.name: place},
            images={**self.images, want.image: there},
        )

    def without(self, name: str) -> "Hosts":
        """Return the hosts with the one called *name* not to be had."""
        return replace(self, up=self.up & ~self.at([self.names.index(name)]))

    def with_image(self, image: str) -> Truths:
        """Return where *image* is."""
        return self.images.get(image, self.nowhere())

    def nowhere(self) -> Truths:
        """Return a column that holds for no host."""
        return np.zeros(len(self.names), dtype=np.bool_)

    def at(self, places: Iterable[int]) -> Truths:
        """Return a column that holds for the hosts at *places* only."""
        column = self.nowhere()
        column[list(places)] = True
        return column
