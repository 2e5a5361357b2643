#!/usr/bin/env python3
"""Runs the whole pipeline in hand-written Python.

    hand_pipeline.py CORPUS OUT --model MODEL --min-return R

Its author moved the selection in front of the label: split, filter and subsample on metadata, then
read, keep, label, compute the return-to-go, write.
"""

import numpy as np
import shards

args = shards.arguments()
ids, returns, lengths = shards.metadata(args)
# A tenth of all trajectories, drawn from the worse half, keeps its actions.
worse = ids[np.lexsort((ids, returns))][: len(ids) // 2]
labelled = shards.draw(worse, len(ids) // 10, args.seed)
good = ids[(returns >= args.min_return) & (lengths >= 50)]
kept = shards.draw(good, len(good) // 4, args.seed + 1)
sessions = shards.Sessions(args.model)


def work(table):
    """The result of one file."""
    table = shards.hide(shards.keep(table, kept), labelled)
    if table.num_rows:
        table = shards.returns_to_go(shards.label(table, sessions, args.past, args.batch), 0.99)
    return table


shards.for_each_file(args, work)
