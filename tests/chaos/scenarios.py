"""Which requests are killed: one story a way through an event's steps, forward and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ccfd.errors import Refused
from tests.twins import Trap, no_trap

Body = dict[str, Any]
Send = tuple[str, Body]

SLICE = "demo"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is there before, what is then asked for, and which calls the hosts refuse.

    The last of `asks` is the event that the story is told of. `refuses` lists calls of twins,
    each with a word that the call's argument says (a host's or a VM's name).
    """

    story: str
    before: tuple[Send, ...] = ()
    asks: tuple[Send, ...]
    refuses: tuple[tuple[str, str], ...] = ()
    starts: int = 1
    """Times that a VM may be started, its creation included."""
    within: str = ""
    """Where there are two requests: the call of the first one that waits for the second one."""
    at_once: int = 0
    """So many are carried out at once, where all of `asks` are sent together."""

    @property
    def event(self) -> str:
        """The event's type."""
        return self.asks[-1][0]

    def fault(self) -> Trap:
        """Make the trap that refuses."""

        async def refuse(call: str, args: Any) -> None:
            await no_trap(call, args)
            said = {getattr(args, name, None) for name in ("host", "name", "hostname", "slice")}
            for refused, word in self.refuses:
                if call == refused and word in said:
                    raise Refused("hypervisor_error", "no more memory")

        return refuse


def vm(name: str, host: str) -> Body:
    """Ask for a VM on a host, which is kept to a bandwidth there."""
    return {"name": name, "flavor": "tiny", "image": "tiny", "host": host, "bandwidth": 5}


def create(*vms: Body, **more: Any) -> Send:
    """Ask for a slice."""
    return "slice.create", {"slice": SLICE, "gateway": False, "vms": list(vms), **more}


def many(*vms: Body) -> tuple[Send, ...]:
    """Ask for a slice with each of *vms*."""
    return tuple(create(vm, slice=f"{SLICE}-{number}") for number, vm in enumerate(vms))


A, B, SECOND = vm("a", "h1"), vm("b", "h2"), vm("b", "h1")
GROW = ("vm.create", {"slice": SLICE, **B})
GROW_HERE = ("vm.create", {"slice": SLICE, **SECOND})
# A VM's name stands for its id, which is looked up.
SHRINK = ("vm.delete", {"vm": "b"})
DELETE = ("slice.delete", {"slice": SLICE})
RESERVE = ("subnet.create", {"owner": SLICE, "timeout": 3600})
CONFIRM = ("subnet.create_success", {"owner": SLICE})
GIVE_BACK = ("subnet.delete", {"owner": SLICE})

NEW_FLAVOR = ("flavor.create", {"flavor": "small", "cpu": 1, "ram": 64, "disk": 1})
NO_FLAVOR = ("flavor.delete", {"flavor": "tiny"})
DRAIN = ("host.drain", {"host": "h1"})
ACTIVATE = ("host.activate", {"host": "h1"})

OWN = {"address": "198.51.100.9", "port": 6653}
ATTACH = ("slice.update", {"slice": SLICE, "controller": OWN})
DETACH = ("slice.update", {"slice": SLICE, "controller": None})

WATCH = ("slice.update", {"slice": SLICE, "monitoring": {"sflow": "198.51.100.8:6343"}})
UNWATCH = ("slice.update", {"slice": SLICE, "monitoring": None})
BOTH = {"sflow": "198.51.100.8:6343", "ipfix": "198.51.100.8:4739"}

IMAGE = {"image": "tiny"}
CONTROL = ("controller.create", {"slice": SLICE, "image_name": "tiny"})
UNCONTROL = ("controller.delete", {"vm": "its"})
ATTACH_VM = ("slice.update", {"slice": SLICE, "controller": IMAGE})
NO_BOOT_ANYWHERE = (("domains.boot:after", "h1"), ("domains.boot:after", "h2"))
WIDE = ("flavor.create", {"flavor": "wide", "cpu": 2, "ram": 64, "disk": 2})
MANY = ("flavor.create", {"flavor": "many", "cpu": 2, "ram": 256, "disk": 1, "bandwidth": 10})
START, STOP, REBOOT = (
    (f"vm.{word}", {"vm": "a", **more})
    for word, more in (("start", {}), ("stop", {"force": True}), ("reboot", {}))
)
SUSPEND, RESUME = (("vm.suspend", {"vm": "a"}), ("vm.resume", {"vm": "a"}))
STOP_ALL, START_ALL = ("slice.stop", {"slice": SLICE}), ("slice.start", {"slice": SLICE})
TO_WIDE = ("vm.resize", {"vm": "a", "flavor": "wide"})
TO_MANY = ("vm.resize", {"vm": "a", "flavor": "many"})
KEEP, GO_BACK, FORGET = (
    (f"vm.snapshot_{word}", {"vm": "a", "snapshot": "s"}) for word in ("create", "revert", "delete")
)

NO_BOOT = ("domains.boot:before", "b")
BOOT_LOST = ("domains.boot:after", "b")

SCENARIOS = (
    Scenario(story="done", asks=(RESERVE,)),
    Scenario(story="refused", before=(RESERVE, CONFIRM), asks=(RESERVE,)),
    Scenario(story="done", before=(RESERVE,), asks=(CONFIRM,)),
    Scenario(story="refused", asks=(CONFIRM,)),
    Scenario(story="done", before=(RESERVE, CONFIRM), asks=(GIVE_BACK,)),
    Scenario(story="refused", before=(create(A),), asks=(GIVE_BACK,)),
    Scenario(story="done", asks=(create(A, B),)),
    Scenario(story="without VMs", asks=(create(),)),
    Scenario(story="with a gateway", asks=(create(A, gateway=True),)),
    Scenario(
        story="with a gateway, refused at boot",
        asks=(create(B, gateway=True),),
        refuses=(NO_BOOT,),
    ),
    Scenario(
        story="with a gateway that is lost",
        asks=(create(gateway=True),),
        refuses=(("gateways.open:after", SLICE),),
    ),
    Scenario(story="with a gateway", before=(create(A, gateway=True),), asks=(DELETE,)),
    Scenario(
        story="on a reservation, refused at boot",
        before=(RESERVE,),
        asks=(create(A, B),),
        refuses=(NO_BOOT,),
    ),
    Scenario(story="boot lost", asks=(create(A, B),), refuses=(BOOT_LOST,)),
    Scenario(
        story="refused at the disk", asks=(create(A, B),), refuses=(("disks.make:after", "b"),)
    ),
    Scenario(
        story="refused at the first stage",
        asks=(create(A, B),),
        refuses=(("fabric.make:after", "h2"),),
    ),
    Scenario(story="refused in deciding", asks=(create(A, {**B, "image": "nope"}),)),
    Scenario(
        story="stuck", asks=(create(A, B),), refuses=(NO_BOOT, ("fabric.remove:before", "h1"))
    ),
    # Few at once: some have begun before it is their turn, some come to their end behind it.
    Scenario(
        story="in a burst, some refused at boot",
        asks=many(*[A, B] * 3),
        refuses=(NO_BOOT,),
        at_once=2,
    ),
    Scenario(story="done", before=(create(A, B),), asks=(DELETE,)),
    Scenario(story="without VMs", before=(create(),), asks=(DELETE,)),
    Scenario(story="cancels a creation", asks=(create(A, B), DELETE), within="disks.make:after"),
    Scenario(story="to a new host", before=(create(A),), asks=(GROW,)),
    Scenario(story="to a host of the slice", before=(create(A),), asks=(GROW_HERE,)),
    Scenario(story="refused at boot", before=(create(A),), asks=(GROW,), refuses=(NO_BOOT,)),
    Scenario(story="boot lost", before=(create(A),), asks=(GROW_HERE,), refuses=(BOOT_LOST,)),
    Scenario(
        story="refused at the disk",
        before=(create(A),),
        asks=(GROW,),
        refuses=(("disks.make:after", "b"),),
    ),
    Scenario(
        story="refused in deciding",
        before=(create(A),),
        asks=(("vm.create", {"slice": SLICE, **A}),),
    ),
    Scenario(story="the last of its host", before=(create(A, B),), asks=(SHRINK,)),
    Scenario(story="one of two", before=(create(A, SECOND),), asks=(SHRINK,)),
    Scenario(story="on a controller elsewhere", asks=(create(A, B, controller=OWN),)),
    Scenario(story="attached", before=(create(A, B),), asks=(ATTACH,)),
    Scenario(story="detached", before=(create(A, B, controller=OWN),), asks=(DETACH,)),
    Scenario(
        story="refused by a host",
        before=(create(A, B),),
        asks=(ATTACH,),
        refuses=(("fabric.change:before", "h2"),),
    ),
    Scenario(story="told to collectors", asks=(create(A, B, monitoring=BOTH),)),
    Scenario(story="told to a collector", before=(create(A, B),), asks=(WATCH,)),
    Scenario(
        story="told to a collector, refused by a host",
        before=(create(A, B),),
        asks=(WATCH,),
        refuses=(("fabric.change:before", "h2"),),
    ),
    Scenario(story="told to nobody", before=(create(A, B, monitoring=BOTH),), asks=(UNWATCH,)),
    Scenario(
        story="told only",
        before=(create(A),),
        asks=(("slice.update", {"slice": SLICE, "description": "new", "expires_in": 3600}),),
    ),
    Scenario(story="with a controller VM", asks=(create(A, B, controller=IMAGE),)),
    Scenario(
        story="with a controller VM, refused on the control network",
        asks=(create(A, B, controller=IMAGE),),
        refuses=(("fabric.join:after", "h2"),),
    ),
    Scenario(
        story="with a controller VM", before=(create(A, B, controller=IMAGE),), asks=(DELETE,)
    ),
    Scenario(story="with a controller VM", before=(create(A, controller=IMAGE),), asks=(GROW,)),
    Scenario(
        story="with a controller VM", before=(create(A, B, controller=IMAGE),), asks=(SHRINK,)
    ),
    Scenario(story="done", before=(create(A, B),), asks=(CONTROL,)),
    Scenario(story="boot lost", before=(create(A, B),), asks=(CONTROL,), refuses=NO_BOOT_ANYWHERE),
    Scenario(
        story="refused by a bridge",
        before=(create(A, B),),
        asks=(CONTROL,),
        refuses=(("fabric.change:before", "h2"),),
    ),
    Scenario(story="refused in deciding", before=(create(controller=OWN),), asks=(CONTROL,)),
    Scenario(story="done", before=(create(A, B, controller=IMAGE),), asks=(UNCONTROL,)),
    Scenario(story="to a VM", before=(create(A, B, controller=OWN),), asks=(ATTACH_VM,)),
    Scenario(story="from a VM", before=(create(A, B, controller=IMAGE),), asks=(DETACH,)),
    Scenario(
        story="from a VM, refused by a bridge",
        before=(create(A, B, controller=IMAGE),),
        asks=(ATTACH,),
        refuses=(("fabric.change:before", "h2"),),
    ),
    Scenario(story="done", before=(create(A), STOP), asks=(START,), starts=2),
    Scenario(
        story="refused",
        before=(create(A), STOP),
        asks=(START,),
        refuses=(("domains.boot:after", "a"),),
        starts=2,
    ),
    Scenario(story="done", before=(create(A),), asks=(STOP,)),
    Scenario(story="of one that is suspended", before=(create(A), SUSPEND), asks=(STOP,)),
    Scenario(story="done", before=(create(A),), asks=(REBOOT,), starts=2),
    Scenario(
        story="refused at boot",
        before=(create(A),),
        asks=(REBOOT,),
        refuses=(("domains.boot:before", "a"),),
    ),
    Scenario(story="done", before=(create(A),), asks=(SUSPEND,)),
    Scenario(story="done", before=(create(A), SUSPEND), asks=(RESUME,)),
    Scenario(
        story="lost",
        before=(create(A), SUSPEND),
        asks=(RESUME,),
        refuses=(("domains.resume:after", "a"),),
    ),
    Scenario(story="done", before=(create(A, B),), asks=(STOP_ALL,)),
    Scenario(
        story="refused by a host",
        before=(create(A, B),),
        asks=(STOP_ALL,),
        refuses=(("domains.stop:before", "b"),),
    ),
    Scenario(story="done", before=(create(A, B), STOP_ALL), asks=(START_ALL,), starts=2),
    Scenario(
        story="refused at one boot",
        before=(create(A, B), STOP_ALL),
        asks=(START_ALL,),
        refuses=(NO_BOOT,),
        starts=2,
    ),
    Scenario(story="with VMs that are off", before=(create(A, B), STOP_ALL), asks=(DELETE,)),
    Scenario(
        story="cancels a stop and a start of all",
        before=(create(A, B),),
        asks=(STOP_ALL, START_ALL, DELETE),
        within="domains.stop:after",
    ),
    Scenario(story="of one that runs", before=(MANY, create(A)), asks=(TO_MANY,), starts=2),
    Scenario(story="of one that is off", before=(MANY, create(A), STOP), asks=(TO_MANY,)),
    Scenario(story="with its disk", before=(WIDE, create(A)), asks=(TO_WIDE,), starts=2),
    Scenario(
        story="refused once it was stopped",
        before=(MANY, create(A)),
        asks=(TO_MANY,),
        refuses=(("domains.stop:after", "a"),),
        starts=2,
    ),
    Scenario(
        story="stuck",
        before=(MANY, create(A)),
        asks=(TO_MANY,),
        refuses=(("domains.redefine:after", "a"),),
    ),
    Scenario(
        story="refused after its disk has grown",
        before=(WIDE, create(A)),
        asks=(TO_WIDE,),
        refuses=(("domains.boot:before", "a"),),
    ),
    Scenario(story="done", before=(create(A),), asks=(KEEP,)),
    Scenario(
        story="lost",
        before=(create(A),),
        asks=(KEEP,),
        refuses=(("snapshots.take:after", "a"),),
    ),
    Scenario(story="of one that runs", before=(create(A), KEEP), asks=(GO_BACK,), starts=2),
    Scenario(story="of one that is off", before=(create(A), STOP, KEEP), asks=(GO_BACK,)),
    Scenario(
        story="refused",
        before=(create(A), KEEP),
        asks=(GO_BACK,),
        refuses=(("snapshots.revert:before", "a"),),
    ),
    Scenario(story="done", before=(create(A), KEEP), asks=(FORGET,)),
    Scenario(story="with a snapshot", before=(create(A), KEEP), asks=(("vm.delete", {"vm": "a"}),)),
    Scenario(story="done", asks=(NEW_FLAVOR,)),
    Scenario(story="refused", before=(NEW_FLAVOR,), asks=(NEW_FLAVOR,)),
    Scenario(story="without VMs", asks=(NO_FLAVOR,)),
    Scenario(story="with two VMs", before=(create(A, B),), asks=(NO_FLAVOR,)),
    Scenario(story="done", asks=(("image.import", {}),)),
    Scenario(story="refused", asks=(("image.import", {"name": "nope"}),)),
    Scenario(story="done", asks=(DRAIN,)),
    Scenario(story="done", before=(DRAIN,), asks=(ACTIVATE,)),
    Scenario(story="refused", asks=(("host.drain", {"host": "h9"}),)),
)
