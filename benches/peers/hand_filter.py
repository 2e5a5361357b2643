#!/usr/bin/env python3
"""Filters by return and subsamples a quarter: hand_filter.py CORPUS OUT --min-return R"""

import shards

args = shards.arguments()
ids, returns, _ = shards.metadata(args)
good = ids[returns >= args.min_return]
kept = shards.draw(good, len(good) // 4, args.seed)
shards.for_each_file(args, lambda table: shards.keep(table, kept))
