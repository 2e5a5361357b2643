#!/usr/bin/env python3
"""The whole pipeline by hand, the selection pushed in front of the label by the author:
split, filter and subsample on metadata → read → keep → label → return-to-go → write.

    hand_pipeline.py CORPUS OUT --model MODEL --min-return R
"""

import numpy as np
import shards

args = shards.arguments()
ids, returns, lengths = shards.metadata(args)
# The split: a tenth of all trajectories, drawn from the worse half, keeps its actions.
worse = ids[np.lexsort((ids, returns))][: len(ids) // 2]
labelled = shards.draw(worse, len(ids) // 10, args.seed)
good = ids[(returns >= args.min_return) & (lengths >= 50)]
kept = shards.draw(good, len(good) // 4, args.seed + 1)
sessions = shards.Sessions(args.model)


def work(table):
    """One file."""
    table = shards.hide(shards.keep(table, kept), labelled)
    if table.num_rows:
        table = shards.returns_to_go(shards.label(table, sessions, args.past, args.batch), 0.99)
    return table


shards.for_each_file(args, work)
