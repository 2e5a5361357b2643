"""Seeded choices, computed again from the hash that they are documented to be."""

import blake3


def hashed(salt, seed, number):
    """The 64 bits that decide a choice for one trajectory, or for one draw."""
    hasher = blake3.blake3(
        salt.encode()
        + b"\0"
        + seed.to_bytes(8, "little")
        + int(number).to_bytes(8, "little", signed=True)
    )
    return int.from_bytes(hasher.digest(8), "little")


def chance(salt, seed, number):
    """A number between 0 and 1."""
    return ((hashed(salt, seed, number) >> 12) + 0.5) / 2**52


def drawn(salt, seed, ids):
    """Ids in the order of a draw without replacement."""
    return sorted(ids, key=lambda number: (hashed(salt, seed, number), number))


def pairs(lengths, length, count, seed):
    """Yields two segments for each pair, each a trajectory and its first step.

    `lengths` maps trajectories to their numbers of steps.
    """
    segments = [
        (key, start) for key, steps in lengths.items() for start in range(steps - length + 1)
    ]
    for pair in range(count):
        first, other = (
            int(chance("pairs", seed, 2 * pair + side) * (len(segments) - side))
            for side in range(2)
        )
        yield segments[first], segments[other + (other >= first)]
