"""What a run did."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajmill._dataset import Dataset


def html_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a table in HTML."""

    def cell(tag: str, value: object) -> str:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        return f"<{tag}>{html.escape(str(text))}</{tag}>"

    lines = ["".join(cell("th", name) for name in head)]
    lines += ["".join(cell("td", value) for value in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


class Report(Mapping[str, Any]):
    """What a run did: the facts of `trajmill run --json`, by name."""

    def __init__(self, facts: dict[str, Any], notes: list[str]) -> None:
        self._facts = facts
        self.summary = "\n".join(notes)
        """The summary that the command prints."""

    def __getitem__(self, name: str) -> Any:
        return self._facts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    def __len__(self) -> int:
        return len(self._facts)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs, in the order of the pipeline."""
        outputs: list[dict[str, Any]] = self._facts["outputs"]
        return outputs

    @property
    def models(self) -> list[dict[str, Any]]:
        """The models that were trained or found up to date."""
        models: list[dict[str, Any]] = self._facts["models"]
        return models

    @property
    def reused(self) -> bool:
        """Whether everything was up to date, so that nothing was done."""
        return bool(self._facts["reused"])

    @property
    def seconds(self) -> float:
        """The wall time of the run."""
        return float(self._facts["seconds"])

    @property
    def warnings(self) -> list[str]:
        """What a user should know about the results."""
        return [line for output in self.outputs for line in output["warnings"]]

    @property
    def datasets(self) -> list[Dataset]:
        """The outputs that are trajmill datasets, opened."""
        from trajmill._dataset import open

        return [open(output["path"]) for output in self.outputs if output["manifest"]]

    def __repr__(self) -> str:
        paths = ", ".join(output["path"] for output in self.outputs)
        state = "up to date" if self.reused else f"{self.seconds:.2f} s"
        return f"<trajmill.Report: {paths}, {state}>"

    def __str__(self) -> str:
        return self.summary

    def _repr_html_(self) -> str:
        parts = []
        for output in self.outputs:
            path = html.escape(output["path"])
            if output["reused"]:
                parts.append(f"<p><b>{path}</b>: nothing to do, the result is up to date</p>")
                continue
            head = ["", "trajectories", "rows", "dropped rows"]
            rows: list[list[object]] = []
            for index, stage in enumerate(output["stages"]):
                if index == 0:
                    rows.append(["read", stage["trajectories_in"], stage["rows_in"], ""])
                reasons = stage.get("dropped_rows", {})
                dropped = ", ".join(f"{rows:,}: {why}" for why, rows in reasons.items())
                rows.append(
                    [stage["stage"], stage["trajectories_out"], stage["rows_out"], dropped]
                )
            statistics = output["statistics"]
            rows.append(["written", statistics["trajectories"], statistics["rows"], ""])
            actions = (
                f"{statistics['recorded_actions']:,} recorded, "
                f"{statistics['proxy_actions']:,} proxy actions of {statistics['steps']:,} steps"
            )
            warnings = "".join(f"<p>warning: {html.escape(w)}</p>" for w in output["warnings"])
            parts.append(
                f"<p><b>{path}</b>, {output['seconds']:.2f} s</p>"
                f"{html_table(head, rows)}<p>{actions}</p>{warnings}"
            )
        for model in self.models:
            state = "up to date" if model["reused"] else model["summary"]
            parts.append(f"<p><b>{html.escape(model['path'])}</b>: {html.escape(state)}</p>")
        return "".join(parts)
