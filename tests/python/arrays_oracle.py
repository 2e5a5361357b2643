"""zarr replay buffers as zarr writes them, and TensorDict memory maps: every value that comes out is that which went in.

    python tests/python/arrays_oracle.py TRAJMILL

TensorDict memory maps are written by hand as the library writes them, and where `tensordict` is installed
(tests/requirements-all.txt) by the library itself.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import numcodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

TRAJMILL = os.path.abspath(sys.argv[1])
CHECKS = 0

def check(condition, what):
    global CHECKS
    CHECKS += 1
    assert condition, what

def trajmill(*arguments, code=0):
    done = subprocess.run([TRAJMILL, *map(str, arguments)], capture_output=True, text=True, timeout=600)
    check(done.returncode == code and "panicked" not in done.stderr, f"{arguments}: exit {done.returncode}: {done.stderr}")
    return done

def read(path):
    return pa.concat_tables([pq.read_table(os.path.join(path, name)) for name in sorted(os.listdir(path))])

def array(column, dtype):
    return np.array(column.to_pylist()).astype(dtype)

BLOSC = numcodecs.Blosc
CODECS = {
    "none": None, "zlib": numcodecs.Zlib(1), "gzip": numcodecs.GZip(1), "zstd": numcodecs.Zstd(3),
    "lz4-plain": BLOSC("lz4", 5, BLOSC.NOSHUFFLE), "lz4-shuffle": BLOSC("lz4", 5, BLOSC.SHUFFLE), "lz4-bits": BLOSC("lz4", 5, BLOSC.BITSHUFFLE),
    "zstd-bits": BLOSC("zstd", 5, BLOSC.BITSHUFFLE), "zstd-shuffle": BLOSC("zstd", 9, BLOSC.SHUFFLE), "lz4hc": BLOSC("lz4hc", 5, BLOSC.SHUFFLE), "zlib-shuffle": BLOSC("zlib", 5, BLOSC.SHUFFLE),
    "small-blocks": BLOSC("lz4", 5, BLOSC.SHUFFLE, blocksize=1024),
}

def made(rows):
    random = np.random.default_rng(rows)
    walk = np.cumsum(random.normal(size=(rows, 5)), axis=0).astype(np.float32)
    return {
        "state": walk, "action": random.normal(size=(rows, 2)), "img": (random.integers(0, 8, size=(rows, 6, 7, 3)) * 30).astype(np.uint8),
        "count": np.arange(rows, dtype=np.int64), "keypoint": random.normal(size=(rows, 9, 2)).astype(np.float32), "seen": np.arange(rows) % 3 == 0,
    }

def buffer(path, arrays, ends, codec, chunks):
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.create_group("data")
    root.create_group("meta")
    for name, values in arrays.items():
        shape = tuple(min(chunk, axis) for chunk, axis in zip((chunks, *values.shape[1:]), values.shape))
        if name == "keypoint":
            shape = (shape[0], 4, 2)
        own = root.create_array(f"data/{name}", shape=values.shape, chunks=shape, dtype=values.dtype, compressors=codec, fill_value=0)
        own[...] = values
    own = root.create_array("meta/episode_ends", shape=(len(ends),), chunks=(len(ends),), dtype=np.int64, compressors=codec)
    own[...] = np.array(ends)

def compare(arrays, ends, dataset):
    steps, trajectories = read(f"{dataset}/steps"), read(f"{dataset}/trajectories")
    check(trajectories["length"].to_pylist() == np.diff([0, *ends]).tolist(), "lengths")
    for name, values in arrays.items():
        column = steps[{"state": "observation"}.get(name, name)]
        element = column.type.value_type if pa.types.is_nested(column.type) else column.type
        check(element == pa.from_numpy_dtype(values.dtype), f"the type of {name}")
        found = array(column, values.dtype)
        check(found.tobytes() == values.reshape(found.shape).tobytes(), f"values of {name}")
    check(not np.array(steps["is_final"].to_pylist()).any(), "no final observations")

def zarrs(folder):
    ends = [3, 4, 1500, 1507]
    arrays = made(ends[-1])
    for name, codec in CODECS.items():
        path = f"{folder}/{name}.zarr"
        buffer(path, arrays, ends, codec, 400)
        trajmill("import", path, f"{path}.in")
        compare(arrays, ends, f"{path}.in")
    shutil.make_archive(f"{folder}/zip", "zip", f"{folder}/lz4-shuffle.zarr")
    os.rename(f"{folder}/zip.zip", f"{folder}/set.zarr.zip")
    trajmill("import", f"{folder}/set.zarr.zip", f"{folder}/zip.in")
    compare(arrays, ends, f"{folder}/zip.in")
    def edit(path, change):
        with open(path) as file:
            value = change(json.load(file))
        with open(path, "w") as file:
            json.dump(value, file)
    cases = [
        (lambda root: os.remove(f"{root}/meta/episode_ends/.zarray"), ["episode_ends"]),
        (lambda root: os.truncate(f"{root}/data/state/1.0", 50), ["data/state/1.0", "damaged"]),
        (lambda root: edit(f"{root}/data/state/.zarray", lambda value: value | {"shape": [1400, 5]}), ["`data/state` has 1,400 rows", "1,507"]),
        (lambda root: edit(f"{root}/data/action/.zarray", lambda value: value | {"zarr_format": 3}), ["data/action/.zarray", "`zarr_format` is 3"]),
        (lambda root: edit(f"{root}/data/action/.zarray", lambda value: value | {"filters": [{"id": "delta"}]}), ["filters"]),
        (lambda root: open(f"{root}/data/action/.zarray", "w").write('{"shape": [Infinity]}'), ["not JSON"]),
        (lambda root: buffer(root, arrays, [3, 2, 1507], None, 400), ["`meta/episode_ends` is 2 at 1"]),
    ]
    for number, (damage, wanted) in enumerate(cases):
        root = f"{folder}/bad{number}"
        shutil.copytree(f"{folder}/lz4-shuffle.zarr", root)
        damage(root)
        done = trajmill("import", root, f"{folder}/none", "--from", "zarr", code=1)
        for word in wanted:
            check(word in done.stderr, f"zarr {number}: `{word}` is not in: {done.stderr}")
        check(not os.path.exists(f"{folder}/none"), "nothing is left")

def transitions(lengths):
    random = np.random.default_rng(2)
    n, ends = sum(lengths), np.cumsum(lengths)
    done, terminated, truncated = np.zeros((n, 1), bool), np.zeros((n, 1), bool), np.zeros((n, 1), bool)
    done[ends - 1] = True
    terminated[ends[::2] - 1] = True
    truncated[ends[1::2] - 1] = True
    root = {"observation": random.normal(size=(n, 4)).astype(np.float32), "action": random.normal(size=(n, 2)), "pixels": random.integers(0, 255, size=(n, 2, 3)).astype(np.uint8), "done": np.zeros((n, 1), bool), "terminated": np.zeros((n, 1), bool)}
    return root, {"observation": random.normal(size=(n, 4)).astype(np.float32), "reward": random.normal(size=(n, 1)).astype(np.float32), "done": done, "terminated": terminated, "truncated": truncated}

def by_hand(path, root, following):
    os.makedirs(f"{path}/next")
    for folder, level in [(path, root), (f"{path}/next", following)]:
        meta = {"shape": [len(root["action"])], "device": "cpu", "_type": "<class 'tensordict._td.TensorDict'>"}
        for name, values in level.items():
            meta[name] = {"device": "cpu", "shape": list(values.shape), "dtype": f"torch.{values.dtype}", "is_nested": False}
            values.tofile(f"{folder}/{name}.memmap")
        if level is root:
            meta["next"] = {"type": "TensorDict"}
        with open(f"{folder}/meta.json", "w") as file:
            json.dump(meta, file)

def compare_transitions(lengths, root, following, dataset):
    steps, trajectories = read(f"{dataset}/steps"), read(f"{dataset}/trajectories")
    ends = np.cumsum(lengths)
    check(trajectories["length"].to_pylist() == lengths, "lengths")
    check(trajectories["terminated"].to_pylist() == [number % 2 == 0 for number in range(len(lengths))], "terminated")
    check(trajectories["truncated"].to_pylist() == [number % 2 == 1 for number in range(len(lengths))], "truncated")
    final = np.array(steps["is_final"].to_pylist())
    found = array(steps["observation"], np.float32)
    check(found[~final].tobytes() == root["observation"].tobytes(), "observations")
    check(found[final].tobytes() == following["observation"][ends - 1].tobytes(), "final observations")
    kept = steps.filter(pa.array(~final))
    check(array(kept["action"], np.float64).tobytes() == root["action"].tobytes(), "actions")
    check(array(kept["reward"], np.float32).tobytes() == following["reward"].tobytes(), "rewards")
    check(array(kept["pixels"], np.uint8).tobytes() == root["pixels"].tobytes(), "pixels")

def tensordicts(folder):
    lengths = [4, 1, 500]
    root, following = transitions(lengths)
    by_hand(f"{folder}/hand", root, following)
    trajmill("import", f"{folder}/hand", f"{folder}/hand.in")
    compare_transitions(lengths, root, following, f"{folder}/hand.in")
    try:
        import torch
        from tensordict import TensorDict
    except ImportError:
        check("--all" not in sys.argv, "tensordict is not installed")
        print("tensordict is not installed: it was not run")
    else:
        tensors = lambda level: {name: torch.from_numpy(values) for name, values in level.items()}
        count = sum(lengths)
        TensorDict({**tensors(root), "next": TensorDict(tensors(following), [count])}, [count]).memmap(f"{folder}/library")
        trajmill("import", f"{folder}/library", f"{folder}/library.in")
        compare_transitions(lengths, root, following, f"{folder}/library.in")
    # Without flags, ids tell trajectories apart.
    plain = {"observation": root["observation"], "action": root["action"], "pixels": root["pixels"], "episode": np.repeat([5, 7, 6], lengths)}
    by_hand(f"{folder}/ids", plain, {"reward": following["reward"]})
    trajmill("import", f"{folder}/ids", f"{folder}/ids.in")
    check(read(f"{folder}/ids.in/trajectories")["length"].to_pylist() == lengths, "trajectories by id")
    for number, (damage, wanted) in enumerate([
        (lambda path: os.truncate(f"{path}/action.memmap", 100), ["action.memmap", "100 bytes"]),
        (lambda path: os.remove(f"{path}/next/reward.memmap"), ["reward.memmap", "missing"]),
        (lambda path: os.remove(f"{path}/next/meta.json"), ["next/meta.json"]),
        (lambda path: open(f"{path}/meta.json", "a").write("x"), ["meta.json", "not JSON"]),
    ]):
        path = f"{folder}/bad{number}"
        shutil.copytree(f"{folder}/hand", path)
        damage(path)
        done = trajmill("import", path, f"{folder}/none", "--from", "tensordict", code=1)
        for word in wanted:
            check(word in done.stderr, f"tensordict {number}: `{word}` is not in: {done.stderr}")

def main():
    for part in [zarrs, tensordicts]:
        with tempfile.TemporaryDirectory() as folder:
            part(folder)
            print(f"{part.__name__}: {CHECKS} checks so far")

if __name__ == "__main__":
    main()
