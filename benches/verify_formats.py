"""Verifies that the results of benches/formats are the same, bit for bit.

    verify_formats.py import PEER OURS THEIRS    # a dataset and the peer's Parquet file
    verify_formats.py export PEER OURS THEIRS    # two exports, read with the peer's reader

Prints one line, or exits with 1 if something differs.
"""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
import pyarrow as pa
import pyarrow.parquet as pq
from rows import whole


def imported(ours, theirs):
    """Verifies two imports. LeRobot's has no final observations, so only steps are compared."""
    a, b = pq.read_table(ours / "steps"), pq.read_table(theirs)
    if len(a) != len(b):
        b = b.filter(pa.compute.invert(b["is_final"]))
    for name in [
        "trajectory_id",
        "step",
        "observation",
        "action",
        "reward",
        "terminated",
        "truncated",
        "is_final",
    ]:
        one, other = whole(a[name]), whole(b[name])
        # robomimic's observations are a struct, which has one field here.
        one = one.field(0) if pa.types.is_struct(one.type) else one
        if pa.types.is_nested(one.type):
            one, other = one.flatten(), other.flatten()
        if not one.equals(other.cast(one.type)):
            sys.exit(f"`{name}` differs")
    print(f"{len(a)} rows are the same, bit for bit")


def exported(episodes, ours, theirs):
    """Verifies two exports."""
    count = 0
    for count, (one, other) in enumerate(
        itertools.zip_longest(episodes(ours), episodes(theirs)), 1
    ):
        for name in one:
            if not np.array_equal(one[name], other[name]):
                sys.exit(f"`{name}` of episode {count - 1} differs")
    print(f"{count} episodes are the same, bit for bit")


direction, peer, ours, theirs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
if direction == "import":
    imported(ours, theirs)
else:
    exported(importlib.import_module(peer).episodes, ours, theirs)
