"""A bad trajectory ends an import, or is set aside with its reason; the others are untouched.

The datasets are those of tests/seeds, by the reference libraries, with one trajectory damaged here.
"""

import json
import os
import shutil

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from oracle import SEEDS, check, says, table, trajmill
from writers import minari, rlds


def trajectories(dataset):
    """Steps of each trajectory by its key, less what numbering changes."""
    steps, keys, found, first = table(dataset), keys_of(dataset), {}, 0
    numbers = steps["trajectory_id"].to_numpy()
    for number, key in enumerate(keys):
        count = int((numbers == number).sum())
        found[key] = steps.slice(first, count).drop_columns("trajectory_id")
        first += count
    check(first == len(steps) and len(keys) == len(found), "rows of trajectories")
    return found


def keys_of(dataset):
    return table(dataset, "trajectories")["source_key"].to_pylist()


# --- what is done to one trajectory of a seed


def hdf5(change):
    def damage(path):
        with h5py.File(
            path if os.path.isfile(path) else f"{path}/data/main_data.hdf5", "r+"
        ) as file:
            change(file)

    return damage


def short(name, rows):
    """An array has fewer rows than the others."""

    def change(file):
        values = file[name][:rows]
        del file[name]
        file[name] = values

    return hdf5(change)


def attribute(group, name, value):
    return hdf5(lambda file: file[group].attrs.__setitem__(name, value))


def without(name):
    return hdf5(lambda file: file.__delitem__(name))


def cut(name, size):
    return lambda path: os.truncate(os.path.join(path, name), size)


def gone(name):
    return lambda path: os.remove(os.path.join(path, name))


def record(number, change, name=""):
    """Changes a record of a TFRecord file, its checksums right."""

    def damage(path):
        path = os.path.join(path, name) if name else path
        with open(path, "rb") as file:
            data = file.read()
        records, at = [], 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            records.append(data[at + 12 : at + 12 + length])
            at += 16 + length
        example = rlds.Example.FromString(records[number])
        change(example.features.feature)
        records[number] = example.SerializeToString()
        with open(path, "wb") as file:
            file.write(rlds.frame(records))

    return damage


def flip(name, at):
    def damage(path):
        with open(os.path.join(path, name), "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 4]))

    return damage


def rows(change, write):
    """Changes rows of a table of steps."""

    def damage(path):
        table = (
            pq.read_table(path) if path.endswith(".parquet") else pa.ipc.open_file(path).read_all()
        )
        columns = {name: table[name].to_pylist() for name in table.column_names}
        change(columns)
        write(
            pa.table(
                {
                    name: pa.array(values, table.schema.field(name).type)
                    for name, values in columns.items()
                }
            ),
            path,
        )

    return damage


def ipc(table, path):
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def small_groups(table, path):
    pq.write_table(table, path, row_group_size=3)


def put(name, row, value):
    return lambda columns: columns[name].__setitem__(row, value)


def lone_terminal(path):
    with np.load(path) as file:
        arrays = {name: np.insert(file[name], 5, file[name][4], axis=0) for name in file.files}
    np.savez(path, **arrays)


def renumbered(path):
    name = f"{path}/data/chunk-000/episode_000002.parquet"
    table = pq.read_table(name)
    index = table.column_names.index("episode_index")
    pq.write_table(table.set_column(index, "episode_index", pa.array([1] * len(table))), name)


SHARD = "set-train.tfrecord-00000-of-00002"

# Seed, damage, keys that are set aside, words of the reason. No keys where what is lost had none.
CASES = [
    ("minari/set-hdf5-v0", without("episode_1"), ["1"], ["episode_1", "no such group"]),
    (
        "minari/set-hdf5-v0",
        short("episode_0/actions", 2),
        ["0"],
        ["episode_0", "`actions` has 2 rows"],
    ),
    (
        "minari/set-hdf5-v0",
        attribute("episode_2", "total_steps", 9),
        ["2"],
        ["episode_2", "`total_steps` says 9"],
    ),
    ("minari/set-parquet-v0", cut("data/1/part-0.parquet", 400), ["1"], ["part-0.parquet"]),
    ("minari/set-arrow-v0", cut("data/0/part-0.arrow", 300), ["0"], ["part-0.arrow"]),
    ("d3rlpy/replay.h5", without("actions_1"), ["1"], ["trajectory 1", "`actions_1`"]),
    ("d3rlpy/replay.h5", short("rewards_0", 1), ["0"], ["trajectory 0", "1 row"]),
    (
        "robomimic/set.hdf5",
        attribute("data/demo_1", "num_samples", 99),
        ["demo_1"],
        ["demo_1", "`num_samples` says 99"],
    ),
    ("robomimic/set.hdf5", short("data/demo_3/obs/state", 2), ["demo_3"], ["demo_3"]),
    ("robosuite/demo.hdf5", without("data/demo_2/states"), ["demo_2"], ["demo_2", "`states`"]),
    ("exorl/set", cut("episode_0_4.npz", 300), ["episode_0_4"], ["episode_0_4.npz"]),
    ("exorl/set", cut("episode_2_6.npz", 300), ["episode_2_6"], ["episode_2_6.npz"]),
    ("rlds/set", flip(SHARD, 200), ["train/0"], [SHARD, "record 0", "checksum"]),
    ("rlds/set", flip(SHARD, 3), ["train/0"], [SHARD, "record 0", "length"]),
    (
        "rlds/set",
        record(0, lambda feature: feature["steps/reward"].float_list.value.append(1.0), SHARD),
        ["train/0"],
        ["record 0", "`steps/reward`"],
    ),
    (
        "tfagents/set.tfrecord",
        record(1, lambda feature: feature["observation"].bytes_list.value.append(b"more")),
        ["0"],
        ["record 1", "`observation`"],
    ),
    (
        "tfagents/set.tfrecord",
        record(5, lambda feature: feature["step_type"].bytes_list.ClearField("value")),
        ["1"],
        ["record 5", "`step_type`"],
    ),
    (
        "lerobot/v21",
        gone("data/chunk-000/episode_000001.parquet"),
        ["1"],
        ["episode 1", "episode_000001.parquet"],
    ),
    ("lerobot/v21", renumbered, ["2"], ["episode 2", "`episode_index` is 1"]),
    (
        "parquet/set.parquet",
        rows(put("observations", 1, [1.0]), small_groups),
        ["7"],
        ["trajectory `7`", "row 1 ", "1 value"],
    ),
    (
        "parquet/set.parquet",
        rows(put("observations", 4, None), small_groups),
        ["2"],
        ["trajectory `2`", "row 4 ", "null"],
    ),
    (
        "parquet/set.parquet",
        rows(put("step", 8, 0), small_groups),
        ["9"],
        ["trajectory `9`", "row 8 ", "not in order"],
    ),
    (
        "arrow/set.arrow",
        rows(put("actions", 9, [1.0, 2.0, 3.0]), ipc),
        ["9"],
        ["trajectory `9`", "row 9 ", "3 values"],
    ),
    ("ogbench/set.npz", lone_terminal, [], ["trajectory 1", "no step"]),
]


def name(case):
    seed, _, _, words = case
    return f"{seed.split('/')[0]}-{words[-1].replace('`', '').strip().replace(' ', '-')}"


@pytest.fixture(params=CASES, ids=map(name, CASES))
def case(request, tmp_path):
    """The folder of outputs, a damaged seed, the keys that are lost, and words of the reason."""
    seed, damage, lost, words = request.param
    source = tmp_path / "source" / os.path.basename(seed)
    source.parent.mkdir()
    (shutil.copytree if (SEEDS / seed).is_dir() else shutil.copy)(SEEDS / seed, source)
    (tmp_path / "out").mkdir()
    trajmill("import", source, tmp_path / "out" / "whole")
    damage(str(source))
    return tmp_path / "out", source, lost, words


def test_a_bad_trajectory_ends_an_import(case):
    out, source, _, words = case
    failed = trajmill("import", source, out / "bad", code=1)
    check(len(oracle.errors(failed)) == 1 and "help: " in failed.stderr, failed.stderr)
    says(failed.stderr, [*words, "on_error: quarantine"], source.name)
    check(os.listdir(out) == ["whole"], f"{source.name}: nothing is left")


def test_a_bad_trajectory_is_set_aside_and_the_others_are_untouched(case):
    out, source, lost, words = case
    aside = trajmill("import", source, out / "mended", "--on-error", "quarantine", code=4)
    says(aside.stderr, ["1 trajector", "set aside"], source.name)
    (entry,) = oracle.quarantined(out / "mended")
    says(entry["reason"], words, source.name)
    check(oracle.manifest(out / "mended")["lineage"]["set_aside"] == 1, "the manifest counts it")
    before, after = trajectories(out / "whole"), trajectories(out / "mended")
    if lost:
        check(
            list(after) == [key for key in before if key not in lost],
            f"{source.name}: {list(after)}",
        )
        check(list(before).index(lost[0]) == entry["index"], f"{source.name}: its place {entry}")
    else:
        # What was set aside was never a trajectory, so all of them are still there.
        check(len(after) == len(before), f"{source.name}: {list(after)} of {list(before)}")
    for place, (key, found) in enumerate(after.items()):
        was = before[key] if lost else list(before.values())[place]
        check(found.equals(was), f"{source.name}: trajectory {key}")
    again = trajmill("import", source, out / "mended", "--on-error", "quarantine")
    check("nothing to do" in again.stderr, f"{source.name}: once is enough")


def test_as_many_bad_trajectories_as_allowed_are_no_error(case):
    out, source, _, _ = case
    trajmill("import", source, out / "mended", "--on-error", "quarantine", "--allowed", "1")
    again = trajmill("import", source, out / "mended", "--on-error", "quarantine")
    check("nothing to do" in again.stderr, f"{source.name}: once is enough")


def test_a_pipeline_sets_a_bad_trajectory_of_its_source_aside(case):
    out, source, _, words = case
    path, piped = out / "pipeline.yaml", out / "piped"

    def write(how):
        path.write_text(
            f"trajmill: 1\nsource: {{path: {source}{how}}}\nstages:\n"
            "  - filter: length >= 1\n  - materialise: {path: piped, overwrite: true}\n"
        )

    write("")
    failed = trajmill("run", path, code=None)
    check(
        failed.returncode in (1, 3) and not piped.exists(),
        f"{source.name}: {failed.returncode} {failed.stderr}",
    )
    says(failed.stderr, words, source.name)
    write(", on_error: quarantine")
    trajmill("check", path)
    done = trajmill("run", path, "--json", code=4)
    says(done.stderr, ["1 trajector", "set aside", " 0 ", "allowed"], source.name)
    (said,) = json.loads(done.stdout)["quarantined"]
    check(said["trajectories"] == 1, f"{source.name}: {said}")
    says(said["first"]["reason"], words, source.name)
    check(
        oracle.quarantined(piped) == [said["first"]], f"{source.name}: {oracle.quarantined(piped)}"
    )
    check(oracle.manifest(piped)["lineage"]["set_aside"] == 1, "the manifest counts it")
    check(not [entry for entry in os.listdir(out) if "staging" in entry], "no staging is left")
    check("nothing to do" in trajmill("run", path).stderr, f"{source.name}: once is enough")
    write(", on_error: quarantine, allowed: 1")
    shutil.rmtree(piped)
    trajmill("run", path)


def test_records_that_a_cut_file_hides_are_counted(tmp_path):
    """A cut file hides how many records it had; dataset_info.json tells."""
    made = rlds.Made([3, 4, 5, 6, 7, 8], True)
    made.write(f"{tmp_path}/set", splits=(("train", 1),))
    path = tmp_path / "set" / "set-train.tfrecord-00000-of-00001"
    os.truncate(path, path.stat().st_size // 3)
    trajmill(
        "import", tmp_path / "set", tmp_path / "in", "--on-error", "quarantine", "--allowed", "6"
    )
    kept = len(keys_of(tmp_path / "in"))
    (entry,) = oracle.quarantined(tmp_path / "in")
    check(
        0 < kept < 5 and entry["trajectories"] == 6 - kept and entry["index"] == kept,
        f"{kept} {entry}",
    )


def test_entries_of_several_sources_name_their_source(tmp_path):
    for name in ("one", "two"):
        shutil.copy(SEEDS / "d3rlpy" / "replay.h5", tmp_path / f"{name}.h5")
        without("actions_2")(f"{tmp_path}/{name}.h5")
    sources = ", ".join(
        f"{{path: {name}.h5, on_error: quarantine, allowed: 1}}" for name in ("one", "two")
    )
    (tmp_path / "two.yaml").write_text(
        f"trajmill: 1\nsource: [{sources}]\nstages:\n  - materialise: {{path: merged}}\n"
    )
    trajmill("run", tmp_path / "two.yaml")
    entries = oracle.quarantined(tmp_path / "merged")
    check(
        [entry["source"] for entry in entries] == ["one", "two"]
        and [entry["index"] for entry in entries] == [2, 2],
        f"{entries}",
    )


def test_a_source_without_a_good_trajectory_is_refused(tmp_path):
    """Whatever may be set aside."""
    shutil.copy(SEEDS / "d3rlpy" / "replay.h5", tmp_path / "bad.h5")
    for number in range(3):
        without(f"actions_{number}")(f"{tmp_path}/bad.h5")
    done = trajmill(
        "import",
        tmp_path / "bad.h5",
        tmp_path / "none",
        "--on-error",
        "quarantine",
        "--allowed",
        "9",
        code=1,
    )
    check("`actions_0`" in done.stderr and not (tmp_path / "none").exists(), done.stderr)


def test_two_bad_minari_episodes_are_more_than_one_allowed(tmp_path):
    source, out = minari.files(tmp_path, "half", [3, 4, 2, 5], broken=[1, 3]), tmp_path / "made"
    failed = trajmill("import", source, out, code=1)
    check(
        "episode_1" in failed.stderr and not out.exists(),
        f"the first bad one ends it: {failed.stderr}",
    )
    aside = trajmill("import", source, out, "--on-error", "quarantine", "--allowed", "1", code=4)
    says(aside.stderr, ["2 trajectories", "set aside"], "more than allowed")
    check(keys_of(out) == ["0", "2"], "the others are there")
    entries = oracle.quarantined(out)
    check([entry["index"] for entry in entries] == [1, 3], f"{entries}")
    check(
        all("rewards" in entry["reason"] or "steps" in entry["reason"] for entry in entries),
        f"reasons: {entries}",
    )
    shutil.rmtree(out)
    trajmill("import", source, out, "--on-error", "quarantine", "--allowed", "2")
