"""The result of a query."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class Result:
    """The rows of a query. Whatever reads Arrow takes it without a copy.

    >>> import pyarrow, trajmill
    >>> result = trajmill.sql("data/hopper", "select length from trajectories limit 3")
    >>> pyarrow.table(result).num_rows
    3

    `polars.DataFrame(result)`, `result.to_pandas()` and, in DuckDB, `from result` work too.
    """

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._table.schema.__arrow_c_schema__()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __repr__(self) -> str:
        return f"<trajmill.Result: {len(self):,} rows, columns {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        from trajmill._report import html_table

        rows = [list(row.values()) for row in self._table.slice(0, 20).to_pylist()]
        more = f"<p>{len(self):,} rows</p>" if len(self) > 20 else ""
        return html_table(self.columns, rows) + more

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._table.column_names)

    def to_arrow(self) -> pa.Table:
        """Returns the rows as a pyarrow table."""
        return self._table

    def to_pandas(self) -> Any:
        """Returns the rows as a pandas data frame."""
        return self._table.to_pandas()

    def to_pylist(self) -> list[dict[str, Any]]:
        """Returns the rows as dictionaries."""
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows
