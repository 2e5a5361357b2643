"""Bad trajectories: one ends an import, or is set aside with its reason, and the others come out as if it had not been there.

    python tests/python/quarantine_oracle.py TRAJMILL

The datasets are those of tests/seeds, which the reference libraries wrote, damaged here at one trajectory.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rlds_oracle

TRAJMILL = os.path.abspath(sys.argv[1])
SEEDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "seeds")
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def run(*arguments):
    done = subprocess.run([TRAJMILL, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    check("panicked" not in done.stderr, done.stderr)
    return done

def read(path):
    return pa.concat_tables([pq.read_table(os.path.join(path, name)) for name in sorted(os.listdir(path))])

def trajectories(dataset):
    """Steps of each trajectory by its key, less what numbering changes."""
    steps, table = read(f"{dataset}/steps").drop_columns("trajectory_id"), read(f"{dataset}/trajectories")
    rows = table["length"].to_numpy() + 0
    found, first = {}, 0
    final = np.array(read(f"{dataset}/steps")["trajectory_id"].to_pylist())
    for number, key in enumerate(table["source_key"].to_pylist()):
        count = int((final == number).sum())
        found[key] = steps.slice(first, count)
        first += count
    check(first == len(steps) and len(rows) == len(found), "rows of trajectories")
    return found

# --- what is done to one trajectory of a seed

def hdf5(change):
    def damage(path):
        with h5py.File(path if os.path.isfile(path) else f"{path}/data/main_data.hdf5", "r+") as file:
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
            length = int.from_bytes(data[at:at + 8], "little")
            records.append(data[at + 12:at + 12 + length])
            at += 16 + length
        example = rlds_oracle.Example.FromString(records[number])
        change(example.features.feature)
        records[number] = example.SerializeToString()
        with open(path, "wb") as file:
            file.write(rlds_oracle.frame(records))
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
        table = pq.read_table(path) if path.endswith(".parquet") else pa.ipc.open_file(path).read_all()
        columns = {name: table[name].to_pylist() for name in table.column_names}
        change(columns)
        write(pa.table({name: pa.array(values, table.schema.field(name).type) for name, values in columns.items()}), path)
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

# Seed, damage, keys that are set aside, words of the reason, trajectories that are lost where keys do not say it.
CASES = [
    ("minari/set-hdf5-v0", without("episode_1"), ["1"], ["episode_1", "no such group"]),
    ("minari/set-hdf5-v0", short("episode_0/actions", 2), ["0"], ["episode_0", "`actions` has 2 rows"]),
    ("minari/set-hdf5-v0", attribute("episode_2", "total_steps", 9), ["2"], ["episode_2", "`total_steps` says 9"]),
    ("minari/set-parquet-v0", cut("data/1/part-0.parquet", 400), ["1"], ["part-0.parquet"]),
    ("minari/set-arrow-v0", cut("data/0/part-0.arrow", 300), ["0"], ["part-0.arrow"]),
    ("d3rlpy/replay.h5", without("actions_1"), ["1"], ["trajectory 1", "`actions_1`"]),
    ("d3rlpy/replay.h5", short("rewards_0", 1), ["0"], ["trajectory 0", "1 row"]),
    ("robomimic/set.hdf5", attribute("data/demo_1", "num_samples", 99), ["demo_1"], ["demo_1", "`num_samples` says 99"]),
    ("robomimic/set.hdf5", short("data/demo_3/obs/state", 2), ["demo_3"], ["demo_3"]),
    ("robosuite/demo.hdf5", without("data/demo_2/states"), ["demo_2"], ["demo_2", "`states`"]),
    ("exorl/set", cut("episode_0_4.npz", 300), ["episode_0_4"], ["episode_0_4.npz"]),
    ("exorl/set", cut("episode_2_6.npz", 300), ["episode_2_6"], ["episode_2_6.npz"]),
    ("rlds/set", flip(SHARD, 200), ["train/0"], [SHARD, "record 0", "checksum"]),
    ("rlds/set", flip(SHARD, 3), ["train/0"], [SHARD, "record 0", "length"]),
    ("rlds/set", record(0, lambda feature: feature["steps/reward"].float_list.value.append(1.0), SHARD), ["train/0"], ["record 0", "`steps/reward`"]),
    ("tfagents/set.tfrecord", record(1, lambda feature: feature["observation"].bytes_list.value.append(b"more")), ["0"], ["record 1", "`observation`"]),
    ("tfagents/set.tfrecord", record(5, lambda feature: feature["step_type"].bytes_list.ClearField("value")), ["1"], ["record 5", "`step_type`"]),
    ("lerobot/v21", gone("data/chunk-000/episode_000001.parquet"), ["1"], ["episode 1", "episode_000001.parquet"]),
    ("lerobot/v21", renumbered, ["2"], ["episode 2", "`episode_index` is 1"]),
    ("parquet/set.parquet", rows(put("observations", 1, [1.0]), small_groups), ["7"], ["trajectory `7`", "row 1 ", "1 value "]),
    ("parquet/set.parquet", rows(put("observations", 4, None), small_groups), ["2"], ["trajectory `2`", "row 4 ", "null"]),
    ("parquet/set.parquet", rows(put("step", 8, 0), small_groups), ["9"], ["trajectory `9`", "row 8 ", "increase"]),
    ("arrow/set.arrow", rows(put("actions", 9, [1.0, 2.0, 3.0]), ipc), ["9"], ["trajectory `9`", "row 9 ", "3 values"]),
    ("ogbench/set.npz", lone_terminal, [], ["trajectory 1", "no step"]),
]

def keys_of(dataset):
    return read(f"{dataset}/trajectories")["source_key"].to_pylist()

def one(folder, number, seed, damage, lost, words):
    source = os.path.join(folder, str(number), os.path.basename(seed))
    os.makedirs(os.path.dirname(source))
    copy = shutil.copytree if os.path.isdir(os.path.join(SEEDS, seed)) else shutil.copy
    copy(os.path.join(SEEDS, seed), source)
    out = os.path.join(folder, "out")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    whole, bad, mended = (os.path.join(out, name) for name in ("whole", "bad", "mended"))
    check(run("import", source, whole).returncode == 0, seed)
    damage(source)
    failed = run("import", source, bad)
    errors = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    check(failed.returncode == 1 and len(errors) == 1 and "help: " in failed.stderr, f"{seed}: {failed.returncode} {failed.stderr}")
    check(all(word in failed.stderr for word in words) and "on_error: quarantine" in failed.stderr, f"{seed}: {words} in {failed.stderr}")
    check(sorted(os.listdir(out)) == ["whole"], f"{seed}: nothing is left")

    aside = run("import", source, mended, "--on-error", "quarantine")
    check(aside.returncode == 4 and "1 trajectories were set aside" in aside.stderr, f"{seed}: {aside.returncode} {aside.stderr}")
    lines = [json.loads(line) for line in open(f"{mended}/quarantine.jsonl")]
    check(len(lines) == 1 and all(word in lines[0]["reason"] for word in words), f"{seed}: {lines}")
    before, after = trajectories(whole), trajectories(mended)
    check(json.load(open(f"{mended}/dataset.json"))["lineage"]["set_aside"] == 1, "the manifest says so")
    if lost:
        check(list(after) == [key for key in before if key not in lost], f"{seed}: {list(after)}")
        check(list(before).index(lost[0]) == lines[0]["index"], f"{seed}: its place {lines}")
    for (key, table) in after.items():
        # A trajectory that was never one has a number and no steps.
        was = before[key] if lost else list(before.values())[list(after).index(key)]
        check(table.equals(was), f"{seed}: trajectory {key}")
    shutil.rmtree(mended)
    check(run("import", source, mended, "--on-error", "quarantine", "--allowed", "1").returncode == 0, f"{seed}: as many as allowed")
    check("nothing to do" in run("import", source, mended, "--on-error", "quarantine").stderr, f"{seed}: once is enough")
    return source

def piped(folder, source, words):
    """The same in a pipeline."""
    pipeline = os.path.join(folder, "pipeline.yaml")
    def write(how):
        with open(pipeline, "w") as file:
            file.write(f"trajmill: 1\nsource: {{path: {source}{how}}}\nstages:\n  - filter: length >= 1\n  - materialise: {{path: piped, overwrite: true}}\n")
    out = os.path.join(folder, "piped")
    shutil.rmtree(out, ignore_errors=True)
    write("")
    failed = run("run", pipeline)
    check(failed.returncode in (1, 3) and all(word in failed.stderr for word in words) and not os.path.exists(out), f"{source}: {failed.stderr}")
    write(", on_error: quarantine")
    check(run("check", pipeline).returncode == 0, f"{source}: checked")
    done = run("run", pipeline, "--json")
    check(done.returncode == 4 and "1 trajectories were set aside, and 0 are allowed" in done.stderr, f"{source}: {done.returncode} {done.stderr}")
    (said,) = json.loads(done.stdout)["quarantined"]
    check(said["trajectories"] == 1 and all(word in said["first"]["reason"] for word in words), f"{source}: {said}")
    lines = [json.loads(line) for line in open(f"{out}/quarantine.jsonl")]
    check(lines == [said["first"]] and json.load(open(f"{out}/dataset.json"))["lineage"]["set_aside"] == 1, f"{source}: {lines}")
    check(sorted(name for name in os.listdir(folder) if "staging" in name) == [], "no staging is left")
    again = run("run", pipeline)
    check(again.returncode == 0 and "nothing to do" in again.stderr, f"{source}: {again.stderr}")
    write(", on_error: quarantine, allowed: 1")
    shutil.rmtree(out)
    check(run("run", pipeline).returncode == 0, f"{source}: as many as allowed")

def many_lost(folder):
    """A cut file hides how many records: those that dataset_info.json says are counted."""
    made = rlds_oracle.Made([3, 4, 5, 6, 7, 8], True)
    made.write(f"{folder}/set", splits=(("train", 1),))
    name = f"{folder}/set/set-train.tfrecord-00000-of-00001"
    os.truncate(name, os.path.getsize(name) // 3)
    done = run("import", f"{folder}/set", f"{folder}/in", "--on-error", "quarantine", "--allowed", "6")
    kept = len(keys_of(f"{folder}/in"))
    (line,) = [json.loads(line) for line in open(f"{folder}/in/quarantine.jsonl")]
    check(done.returncode == 0 and 0 < kept < 5 and line["trajectories"] == 6 - kept and line["index"] == kept, f"{kept} {line}")

def several(folder):
    """Two sources with bad trajectories: each line says which it is of."""
    for name in ("one", "two"):
        shutil.copy(os.path.join(SEEDS, "d3rlpy/replay.h5"), f"{folder}/{name}.h5")
        without("actions_2")(f"{folder}/{name}.h5")
    sources = ", ".join(f"{{path: {name}.h5, on_error: quarantine, allowed: 1}}" for name in ("one", "two"))
    with open(f"{folder}/two.yaml", "w") as file:
        file.write(f"trajmill: 1\nsource: [{sources}]\nstages:\n  - materialise: {{path: merged}}\n")
    done = run("run", f"{folder}/two.yaml")
    check(done.returncode == 0, done.stderr)
    lines = [json.loads(line) for line in open(f"{folder}/merged/quarantine.jsonl")]
    check([line["source"] for line in lines] == ["one", "two"] and [line["index"] for line in lines] == [2, 2], f"{lines}")

def hopeless(folder):
    """Where no trajectory can be read there is nothing to import, whatever may be set aside."""
    shutil.copy(os.path.join(SEEDS, "d3rlpy/replay.h5"), f"{folder}/bad.h5")
    for number in range(3):
        without(f"actions_{number}")(f"{folder}/bad.h5")
    done = run("import", f"{folder}/bad.h5", f"{folder}/none", "--on-error", "quarantine", "--allowed", "9")
    check(done.returncode == 1 and "`actions_0`" in done.stderr and not os.path.exists(f"{folder}/none"), done.stderr)

def main():
    with tempfile.TemporaryDirectory() as folder:
        for number, (seed, damage, lost, words) in enumerate(CASES):
            source = one(folder, number, seed, damage, lost, words)
            piped(folder, source, words)
        for part in (many_lost, several, hopeless):
            place = f"{folder}/{part.__name__}"
            os.makedirs(place)
            part(place)
    print(f"{CHECKS} checks of quarantine passed")

main()
