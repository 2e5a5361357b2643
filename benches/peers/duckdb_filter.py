#!/usr/bin/env python3
"""Filters by return and subsamples a quarter: duckdb_filter.py CORPUS OUT --min-return R

With two threads, the semi join does not keep the rows of a trajectory together. `--ordered` sorts
them, for trainers that read in sequence.
"""

import argparse
from pathlib import Path

import duckdb

parser = argparse.ArgumentParser()
parser.add_argument("corpus", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--min-return", type=float, required=True)
parser.add_argument("--seed", type=int, default=7)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--ordered", action="store_true")
args = parser.parse_args()
args.out.mkdir(parents=True)
connection = duckdb.connect()
connection.execute(f"SET threads = {args.threads}")
connection.execute(
    f"""
    CREATE TEMP TABLE kept AS
    WITH good AS (
        SELECT trajectory_id FROM '{args.corpus}/trajectories.parquet'
        WHERE "return" >= {args.min_return}
    )
    SELECT trajectory_id FROM good ORDER BY hash(trajectory_id, {args.seed})
    LIMIT (SELECT count(*) // 4 FROM good)
    """
)
order = "ORDER BY trajectory_id, step" if args.ordered else ""
connection.execute(
    f"""
    COPY (
        SELECT * FROM '{args.corpus}/steps/*.parquet' SEMI JOIN kept USING (trajectory_id) {order}
    )
    TO '{args.out}/steps.parquet'
    (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE 131072)
    """
)
