"""Frames that are stored, as arrays or as PNG, are decoded and written a few at a time.

Frames say which episode and step they show, PyAV says what they are, and pyarrow reads what was written.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import check, equal, seeded, trajmill
from oracle import table as steps
from writers.burned import Burned, shown
from writers.video import TOP

SIZE = (96, 128)
# 36 KiB a frame: 128 are decoded at once, and 910 are a row group.
LENGTHS = [3, 1100, 40, 129]


class Small(Burned):
    def size(self, code):
        return SIZE


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    return Small(folder / "s", seeded("stored"), LENGTHS, {TOP: "h264"}, "v3.0", 0, 10)


def stored(source, folder, way, frames="array"):
    """A dataset with stored frames: of an import, or of a run."""
    made = folder / f"{way}-{frames}"
    if way == "import":
        trajmill("import", source.root, made, "--frames", frames)
        return made
    path = {"path": str(source.root), "format": "lerobot", "frames": frames}
    stages = [{"materialise": {"path": made.name}}]
    trajmill("run", oracle.pipeline(folder / f"{way}.json", path, stages), "--threads", 2)
    return made


@pytest.mark.video
@pytest.mark.parametrize("way", ["import", "run"])
def test_long_episodes_are_stored_in_row_groups_of_their_own(source, tmp_path, way):
    made = stored(source, tmp_path, way)
    wanted = [
        (episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)
    ]
    rows = steps(made)
    frames = np.asarray(rows[TOP].combine_chunks().flatten()).reshape(-1, *SIZE, 3)
    equal([shown(frame)[1:] for frame in frames], wanted, way)
    (path,) = (made / "steps").glob("*")
    groups = pq.ParquetFile(path).metadata
    groups = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
    equal(groups, [3, 1024, 76, 40, 129], "row groups")
    trajmill("info", made, "--verify")


@pytest.mark.video
def test_an_import_and_a_run_store_the_same_content(source, tmp_path):
    tables = [stored(source, tmp_path, way) for way in ("import", "run")]
    hashes = [steps(made, "trajectories")["content_hash"].to_pylist() for made in tables]
    equal(hashes[0], hashes[1], "content")


@pytest.mark.video
@pytest.mark.parametrize("frames", ["array", "png"])
@pytest.mark.parametrize("way", ["import", "run"])
def test_memory_does_not_grow_with_the_length_of_an_episode(tmp_path, way, frames):
    """900 frames of 240 × 320 have 198 MiB."""

    class Large(Burned):
        def size(self, code):
            return 240, 320

    peaks = {}
    for length in (90, 900):
        name = f"s{length}"
        Large(tmp_path / name, seeded("stored memory"), [length], {TOP: "h264"}, "v3.0", 0)
        if way == "import":
            arguments = ["import", tmp_path / name, tmp_path / f"made{length}", "--frames", frames]
        else:
            path = {"path": name, "format": "lerobot", "frames": frames}
            stages = [{"materialise": {"path": f"made{length}"}}]
            run = oracle.pipeline(tmp_path / f"{length}.json", path, stages)
            arguments = ["run", run, "--threads", 2]
        peaks[length] = oracle.peak_memory(*arguments)
    check(peaks[900] < peaks[90] + 120, f"{peaks} MiB")


@pytest.mark.video
def test_a_bad_frame_late_in_a_long_episode_sets_it_aside(tmp_path):
    """Nothing of the episode is kept, and the others are as they are without it."""
    source = Small(tmp_path / "s", seeded("stored bad"), [5, 300, 7], {TOP: "h264"}, "v2.1", 0, 10)
    path = source.root / "data/chunk-000/episode_000001.parquet"
    rows = pq.read_table(path)
    times = rows["timestamp"].to_numpy().copy()
    times[290] += 0.04
    at = rows.schema.get_field_index("timestamp")
    pq.write_table(rows.set_column(at, rows.schema.field(at), pa.array(times)), path)
    words = ["trajectory `1`", f"column `{TOP}`", "29.0400 s", "--on-error quarantine"]
    failed = trajmill("import", source.root, tmp_path / "failed", "--frames", "array", code=1)
    oracle.says(failed.stderr, words, "refused")
    check(not (tmp_path / "failed").exists(), "nothing is left")
    made = tmp_path / "made"
    aside = ["--on-error", "quarantine", "--allowed", 1]
    trajmill("import", source.root, made, "--frames", "array", *aside)
    frames = np.asarray(steps(made)[TOP].combine_chunks().flatten()).reshape(-1, *SIZE, 3)
    wanted = [(episode, step) for episode, length in [(0, 5), (2, 7)] for step in range(length)]
    equal([shown(frame)[1:] for frame in frames], wanted, "frames")
    ((index, reason),) = [(row["index"], row["reason"]) for row in oracle.quarantined(made)]
    oracle.says(reason, words[:3], "quarantined")
    equal(index, 1, "quarantined")
