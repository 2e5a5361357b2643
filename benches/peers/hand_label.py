#!/usr/bin/env python3
"""Labels null actions in hand-written Python.

hand_label.py CORPUS OUT --model MODEL [--past N] [--batch N] [--threads N]
"""

import shards

args = shards.arguments()
sessions = shards.Sessions(args.model)
shards.for_each_file(args, lambda table: shards.label(table, sessions, args.past, args.batch))
