"""Where a subnet lies in its block of 64 addresses: pure arithmetic.

Block number n begins at address 64 n, whatever network it belongs to: a network can grow at both
ends. A block holds subnets of one size; `used` is a bit mask of its places, place 0 the lowest bit.
"""

from ipaddress import IPv4Address

BLOCK = 64
SIZES = (8, 16, 32, 64)


def count(size: int) -> int:
    """Return how many subnets of *size* addresses a block holds."""
    return BLOCK // size


def lowest_free(used: int, size: int) -> int:
    """Return the lowest free place; raise `ValueError` when there is none."""
    for place in range(count(size)):
        if not used >> place & 1:
            return place
    raise ValueError("the block is full")


def with_place(used: int, place: int) -> int:
    """Return *used* with *place* taken."""
    return used | 1 << place


def without_place(used: int, place: int) -> int:
    """Return *used* with *place* free."""
    return used & ~(1 << place)


def is_full(used: int, size: int) -> bool:
    """Tell whether no place is left."""
    return used == (1 << count(size)) - 1


def first_address(block: int, place: int, size: int) -> int:
    """Return the subnet's network address."""
    return block * BLOCK + place * size


def place_of(first: int, size: int) -> tuple[int, int]:
    """Return block and place of the subnet at *first*: the opposite of `first_address`.

    Raises `ValueError` where no subnet of *size* addresses begins there.
    """
    if size not in SIZES or first % size:
        raise ValueError("no subnet can lie there")
    block, offset = divmod(first, BLOCK)
    return block, offset // size


def prefix(size: int) -> int:
    """Return the prefix length of a subnet of *size* addresses."""
    return 33 - size.bit_length()


def gateway(first: int, size: int) -> str:
    """Return a subnet's first usable address with its prefix: `10.0.0.1/26`."""
    return f"{IPv4Address(first + 1)}/{prefix(size)}"


def lowest_gap(taken: set[int], first: int, last: int) -> int | None:
    """Return the lowest of *first* to *last* that is not *taken*, or None."""
    return next((number for number in range(first, last + 1) if number not in taken), None)
