"""Windows over trajectories for PyTorch, read from memory-mapped arrays.

`Dataset.torch` makes them. This module needs `trajmill[torch]`.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from torch.utils.data import Dataset as TorchDataset

from trajmill._arrays import Array, to_numpy
from trajmill._dataset import _OF_STEPS
from trajmill._commands import export, sql
from trajmill._process import PathLike

if TYPE_CHECKING:
    from trajmill._dataset import Dataset

Deltas = Mapping[str, int | Sequence[int]]
Item = dict[str, torch.Tensor]


class Windows(TorchDataset[Item]):  # type: ignore[misc, unused-ignore]
    """A map-style dataset with a window for each step of the trajectories, in their order.

    An item has, for each column, a tensor with the values at its distances from the step: of the
    shape `[distances, …]`, or `[…]` if the distance is a single number. `COLUMN_is_pad` is true
    where the window reaches over an end of its trajectory. A list of indices gives a batch.

    - `pad`: what stands there. `repeat` repeats the first or last value, as LeRobot does; `zero` is
      zero; `drop` leaves out the steps whose windows are not whole.
    - `missing`: what happens where values are null, such as actions that were not recorded. `error`
      raises an error; `pad` marks them in `COLUMN_is_pad`.
    - `device`: where the tensors are. In workers they stay on the CPU.
    - `cache`: the folder for the arrays, which are written once with `trajmill export --to npy` and
      used again as long as the dataset is the same. By default it is `$TRAJMILL_CACHE`, or the
      folder `.trajmill-cache` beside the dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        deltas: Deltas,
        *,
        pad: str = "repeat",
        missing: str = "error",
        device: Any = None,
        cache: PathLike | None = None,
    ) -> None:
        if pad not in ("repeat", "zero", "drop"):
            raise ValueError(f"pad is `repeat`, `zero` or `drop`, not `{pad}`")
        if missing not in ("error", "pad"):
            raise ValueError(f"missing is `error` or `pad`, not `{missing}`")
        if not deltas:
            raise ValueError("name columns with their distances, such as observation=[-1, 0]")
        self.dataset = dataset
        """The dataset that the windows are from."""
        self.folder = _arrays(dataset, cache)
        """The folder of the arrays."""
        self._pad, self._missing, self._device = pad, missing, device
        self._deltas: dict[str, Array] = {}
        self._single: set[str] = set()
        for name, given in deltas.items():
            if isinstance(given, int):
                self._single.add(name)
            self._deltas[name] = np.atleast_1d(np.asarray(given, np.int64))
            if self._deltas[name].ndim != 1 or not self._deltas[name].size:
                raise ValueError(f"{name}: give a distance or a list of distances")
        self._open()
        table = dataset.trajectories
        sizes = [shard["steps"]["rows"] for shard in dataset.manifest["shards"]]
        shards = to_numpy(table.column("shard"))
        before = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        self._start: Array = before[shards] + to_numpy(table.column("first_row"))
        self._rows: Array = to_numpy(table.column("rows"))
        self._length: Array = to_numpy(table.column("length"))
        if not np.isin(self._start, np.load(self.folder / "starts.npy")).all():
            raise ValueError(f"{self.folder} is not the array layout of {dataset.path}: remove it")
        low, high = np.zeros_like(self._length), self._length.copy()
        if pad == "drop":
            for name, distances in self._deltas.items():
                low = np.maximum(low, -distances.min())
                high = np.minimum(high, self._limit(name) - distances.max())
        self._low: Array = low
        self._ends: Array = np.cumsum(np.maximum(high - low, 0))
        if missing == "error":
            self._refuse_missing()

    def _limit(self, name: str) -> Array:
        return self._length if name in _OF_STEPS else self._rows

    def _open(self) -> None:
        self._arrays: dict[str, Array] = {}
        self._valid: dict[str, Array] = {}
        for name in self._deltas:
            file = self.folder / f"{name.replace('/', '.')}.npy"
            if not file.exists():
                held = sorted(path.stem for path in self.folder.glob("*.npy"))
                raise KeyError(f"no array for the column `{name}`: there are {', '.join(held)}")
            self._arrays[name] = np.load(file, mmap_mode="r")
            valid = self.folder / f"{file.stem}_valid.npy"
            if valid.exists():
                self._valid[name] = np.load(valid, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        # A worker maps the arrays itself; pickle would copy them.
        return {k: v for k, v in self.__dict__.items() if k not in ("_arrays", "_valid")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _refuse_missing(self) -> None:
        for name, valid in self._valid.items():
            ends = np.cumsum(np.concatenate([[0], ~np.asarray(valid, bool)]), dtype=np.int64)
            nulls = int((ends[self._start + self._length] - ends[self._start]).sum())
            if nulls:
                raise ValueError(
                    f"`{name}` is null in {nulls:,} steps: fill them (`label`), select "
                    "trajectories that have it, or pass missing='pad'"
                )

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._ends.size else 0

    def __repr__(self) -> str:
        return f"<trajmill.torch.Windows: {len(self):,} windows of {', '.join(self._deltas)}>"

    def __getitem__(self, index: int | Sequence[int]) -> Item:
        if isinstance(index, (list, tuple, np.ndarray, torch.Tensor)):
            return self._gather(np.asarray(index, np.int64))
        return {k: v[0] for k, v in self._gather(np.asarray([index], np.int64)).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        batch = self._gather(np.asarray(indices, np.int64))
        return [{k: v[i] for k, v in batch.items()} for i in range(len(indices))]

    def _place(self, indices: Array) -> tuple[Array, Array]:
        """The trajectory and the step of each index."""
        if ((indices < -len(self)) | (indices >= len(self))).any():
            raise IndexError(f"an index is out of range: there are {len(self)} windows")
        indices = np.where(indices < 0, indices + len(self), indices)
        which = np.searchsorted(self._ends, indices, side="right")
        ends = self._ends[which]
        size = ends - np.where(which > 0, self._ends[which - 1], 0)
        return which, self._low[which] + indices - (ends - size)

    def _gather(self, indices: Array) -> Item:
        which, step = self._place(indices)
        item: Item = {}
        for name, distances in self._deltas.items():
            wanted = step[:, None] + distances
            limit = self._limit(name)[which][:, None]
            held = np.clip(wanted, 0, limit - 1)
            outside = held != wanted
            rows = self._start[which][:, None] + held
            values = np.asarray(self._arrays[name][rows])
            if self._pad == "zero":
                values[outside] = 0
            if name in self._valid:
                outside |= ~np.asarray(self._valid[name][rows], bool)
            if name in self._single:
                values, outside = values[:, 0], outside[:, 0]
            item[name] = self._tensor(values)
            item[f"{name}_is_pad"] = self._tensor(outside)
        return item

    def _tensor(self, values: Array) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self._device is None or get_worker_info() is not None:
            return tensor
        return tensor.to(self._device, non_blocking=True)

    def indices(self, where: str | None = None, *, split: str | None = None) -> Array:
        """Returns the indices of the windows of some trajectories.

        `where` is an SQL condition on columns of `trajectories`; `split="train"` is short for
        `where="split = 'train'"`.
        """
        conditions = [f"({where})"] if where is not None else []
        if split is not None:
            conditions.append("split = '{}'".format(split.replace("'", "''")))
        if not conditions:
            return np.arange(len(self))
        statement = f"select trajectory_id from trajectories where {' and '.join(conditions)}"
        wanted = to_numpy(sql(self.dataset.path, statement).to_arrow().column(0))
        chosen = np.isin(to_numpy(self.dataset.trajectories.column("trajectory_id")), wanted)
        counts = np.diff(self._ends, prepend=0)
        return np.flatnonzero(np.repeat(chosen, counts))

    def sampler(
        self,
        where: str | None = None,
        *,
        split: str | None = None,
        generator: torch.Generator | None = None,
    ) -> SubsetRandomSampler:
        """Returns a sampler of the windows of some trajectories, in random order (`indices`)."""
        return SubsetRandomSampler(self.indices(where, split=split).tolist(), generator)

    def weighted_sampler(
        self,
        column: str,
        num_samples: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> WeightedRandomSampler:
        """Returns a sampler that draws windows by a column of weights, with replacement.

        The column is one of `trajectories`, which weighs each window of a trajectory, or one of
        `steps`. Weights are not negative and not null.
        """
        counts = np.diff(self._ends, prepend=0)
        if column in self.dataset.trajectories.column_names:
            each = self.dataset.trajectories.column(column)
            known = each.null_count == 0
            weights = np.repeat(to_numpy(each), counts)
        else:
            steps = self.folder / f"{column.replace('/', '.')}.npy"
            if not steps.exists():
                raise KeyError(f"neither trajectories nor steps have a column `{column}`")
            which, step = self._place(np.arange(len(self)))
            rows = self._start[which] + step
            weights = np.load(steps, mmap_mode="r")[rows]
            valid = self.folder / f"{steps.stem}_valid.npy"
            known = not valid.exists() or bool(np.load(valid, mmap_mode="r")[rows].all())
        weights = np.asarray(weights, np.float64)
        if not known or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError(f"`{column}` has weights that are null, not finite or negative")
        count = len(self) if num_samples is None else num_samples
        return WeightedRandomSampler(weights.tolist(), count, generator=generator)

    def loader(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        sampler: Sampler[int] | None = None,
        drop_last: bool = False,
        **options: Any,
    ) -> DataLoader[Item]:
        """Returns a `DataLoader` that gathers a whole batch at once.

        An ordinary `DataLoader(windows, …)` works too, and gathers item by item. `options` are
        those of `DataLoader`, such as `num_workers=4, persistent_workers=True`.
        """
        order: Any = sampler or (RandomSampler(self) if shuffle else SequentialSampler(self))
        batches: Any = BatchSampler(order, batch_size, drop_last)
        return DataLoader(self, sampler=batches, batch_size=None, **options)


def _arrays(dataset: Dataset, cache: PathLike | None) -> pathlib.Path:
    """Makes the array layout of a dataset, unless it is in the cache."""
    chosen = cache or os.environ.get("TRAJMILL_CACHE")
    path = dataset.path.resolve()
    folder = pathlib.Path(chosen) if chosen else path.parent / ".trajmill-cache"
    key = hashlib.sha256((path / "dataset.json").read_bytes()).hexdigest()[:16]
    target = folder / f"{path.name[:100]}-{key}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # It appears whole, and a second process that makes it at the same time waits or agrees.
        export(path, target, "npy")
    return target
