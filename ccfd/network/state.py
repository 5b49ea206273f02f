"""Keeps the files of a slice on the network node, and with them whose a namespace is.

A network namespace can carry no tag; `<state>/<vni>/slice` holds the slice's name instead.
"""

from pathlib import Path

from ccfd.errors import Refused, Transient

NETNS = Path("/run/netns")
"""Where iproute2 keeps named network namespaces: ip-netns(8)."""


def folder(state: Path, vni: int) -> Path:
    """Return the directory of slice *vni*'s files."""
    return state / str(vni)


def owner(place: Path) -> str | None:
    """Return the slice that *place* belongs to; None where nobody claimed it."""
    try:
        return (place / "slice").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def owners(state: Path) -> dict[int, str]:
    """Return the slices that have claimed a directory, by their VNIs."""
    if not state.is_dir():
        return {}
    found = {int(place.name): owner(place) for place in state.iterdir() if place.name.isdecimal()}
    return {vni: whose for vni, whose in sorted(found.items()) if whose is not None}


def claim(place: Path, slice_name: str) -> None:
    """Write down that *place* is the slice's. Raises `Refused` when it is another's."""
    whose = owner(place)
    if whose is not None and whose != slice_name:
        raise Refused(
            "switch_error",
            f"{place} belongs to slice {whose}; slice {slice_name} cannot have it: "
            f"delete {whose} first",
        )
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o755)
        if whose is None:
            write(place / "slice", slice_name + "\n")
    except OSError as exc:
        raise Transient("switch_error", f"cannot write to {place}: {exc.strerror}") from exc


def write(path: Path, text: str) -> None:
    """Replace the file's content in one step; readable by all."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o644)
    draft.replace(path)


def read(path: Path) -> str | None:
    """Return the file's content, None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def forget(place: Path, files: tuple[str, ...]) -> None:
    """Remove these files of *place*, their drafts, and *place* itself when nothing is left."""
    for name in files:
        (place / name).unlink(missing_ok=True)
        (place / f"{name}.new").unlink(missing_ok=True)
    if place.is_dir() and not any(place.iterdir()):
        place.rmdir()
