#!/usr/bin/env python3
"""Runs a query over the metadata and prints CSV: duckdb_meta.py CORPUS SQL-FILE

DuckDB's own time, without the start of Python and the import of the module, goes to stderr.
"""

import csv
import sys
import time
from pathlib import Path

import duckdb

start = time.perf_counter()
connection = duckdb.connect()
connection.execute("SET threads = 2")
connection.execute(
    f"CREATE VIEW trajectories AS SELECT * FROM '{sys.argv[1]}/trajectories.parquet'"
)
result = connection.execute(Path(sys.argv[2]).read_text())
rows = result.fetchall()
seconds = time.perf_counter() - start
writer = csv.writer(sys.stdout)
writer.writerow(column[0] for column in result.description)
writer.writerows(rows)
print(f"inside {seconds:.4f}", file=sys.stderr)
