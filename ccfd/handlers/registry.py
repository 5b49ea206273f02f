"""Every event that this release carries out."""

from ccfd.handlers.controller_events import CreateController, DeleteController
from ccfd.handlers.flavor_events import CreateFlavor, DeleteFlavor
from ccfd.handlers.host_events import ActivateHost, DrainHost
from ccfd.handlers.image_events import ImportImages
from ccfd.handlers.slice_events import CreateSlice, DeleteSlice
from ccfd.handlers.slice_power_events import StartSlice, StopSlice
from ccfd.handlers.slice_update import UpdateSlice
from ccfd.handlers.subnet_events import ConfirmSubnet, CreateSubnet, DeleteSubnet
from ccfd.handlers.vm_events import CreateVm, DeleteVm
from ccfd.handlers.vm_power_events import RebootVm, ResumeVm, StartVm, StopVm, SuspendVm
from ccfd.handlers.vm_resize_events import ResizeVm
from ccfd.handlers.vm_snapshot_events import DeleteSnapshot, RevertToSnapshot, TakeSnapshot
from ccfd.settings import Settings
from ccfd.workflow.handler import Handlers


def handlers(settings: Settings) -> Handlers:
    """Make the handlers, by the name of their event."""
    known = (
        CreateSubnet(settings),
        ConfirmSubnet(),
        DeleteSubnet(),
        CreateSlice(settings),
        DeleteSlice(settings),
        StartSlice(settings),
        StopSlice(settings),
        UpdateSlice(settings),
        CreateVm(settings),
        DeleteVm(settings),
        StartVm(settings),
        StopVm(settings),
        RebootVm(settings),
        SuspendVm(settings),
        ResumeVm(settings),
        CreateController(settings),
        DeleteController(settings),
        ResizeVm(settings),
        TakeSnapshot(settings),
        RevertToSnapshot(settings),
        DeleteSnapshot(settings),
        CreateFlavor(),
        DeleteFlavor(),
        ImportImages(),
        DrainHost(),
        ActivateHost(),
    )
    return {handler.event: handler for handler in known}
