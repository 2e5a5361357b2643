"""zarr replay buffers as zarr writes them, and TensorDict memory maps as the library does."""

import json
import os

import numcodecs
import numpy as np
import zarr

BLOSC = numcodecs.Blosc
CODECS = {
    "none": None,
    "zlib": numcodecs.Zlib(1),
    "gzip": numcodecs.GZip(1),
    "zstd": numcodecs.Zstd(3),
    "lz4-plain": BLOSC("lz4", 5, BLOSC.NOSHUFFLE),
    "lz4-shuffle": BLOSC("lz4", 5, BLOSC.SHUFFLE),
    "lz4-bits": BLOSC("lz4", 5, BLOSC.BITSHUFFLE),
    "zstd-bits": BLOSC("zstd", 5, BLOSC.BITSHUFFLE),
    "zstd-shuffle": BLOSC("zstd", 9, BLOSC.SHUFFLE),
    "lz4hc": BLOSC("lz4hc", 5, BLOSC.SHUFFLE),
    "zlib-shuffle": BLOSC("zlib", 5, BLOSC.SHUFFLE),
    "small-blocks": BLOSC("lz4", 5, BLOSC.SHUFFLE, blocksize=1024),
}


def made(rows):
    random = np.random.default_rng(rows)
    walk = np.cumsum(random.normal(size=(rows, 5)), axis=0).astype(np.float32)
    return {
        "state": walk,
        "action": random.normal(size=(rows, 2)),
        "img": (random.integers(0, 8, size=(rows, 6, 7, 3)) * 30).astype(np.uint8),
        "count": np.arange(rows, dtype=np.int64),
        "keypoint": random.normal(size=(rows, 9, 2)).astype(np.float32),
        "seen": np.arange(rows) % 3 == 0,
    }


def buffer(path, arrays, ends, codec, chunks):
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.create_group("data")
    root.create_group("meta")
    for name, values in arrays.items():
        shape = tuple(
            min(chunk, axis) for chunk, axis in zip((chunks, *values.shape[1:]), values.shape)
        )
        if name == "keypoint":
            shape = (shape[0], 4, 2)
        own = root.create_array(
            f"data/{name}",
            shape=values.shape,
            chunks=shape,
            dtype=values.dtype,
            compressors=codec,
            fill_value=0,
        )
        own[...] = values
    own = root.create_array(
        "meta/episode_ends",
        shape=(len(ends),),
        chunks=(len(ends),),
        dtype=np.int64,
        compressors=codec,
    )
    own[...] = np.array(ends)


def following(observation, final, ends):
    """The observations after steps: those of the next steps, or at the ends those of `final`."""
    after = np.concatenate([observation[1:], final[-1:]])
    after[np.asarray(ends) - 1] = final[np.asarray(ends) - 1]
    return after


def transitions(lengths):
    random = np.random.default_rng(2)
    n, ends = sum(lengths), np.cumsum(lengths)
    done, terminated, truncated = (
        np.zeros((n, 1), bool),
        np.zeros((n, 1), bool),
        np.zeros((n, 1), bool),
    )
    done[ends - 1] = True
    terminated[ends[::2] - 1] = True
    truncated[ends[1::2] - 1] = True
    root = {
        "observation": random.normal(size=(n, 4)).astype(np.float32),
        "action": random.normal(size=(n, 2)),
        "pixels": random.integers(0, 255, size=(n, 2, 3)).astype(np.uint8),
        "done": np.zeros((n, 1), bool),
        "terminated": np.zeros((n, 1), bool),
    }
    return root, {
        "observation": following(
            root["observation"], random.normal(size=(n, 4)).astype(np.float32), ends
        ),
        "reward": random.normal(size=(n, 1)).astype(np.float32),
        "done": done,
        "terminated": terminated,
        "truncated": truncated,
    }


def by_hand(path, root, following):
    os.makedirs(f"{path}/next")
    for folder, level in [(path, root), (f"{path}/next", following)]:
        meta = {
            "shape": [len(root["action"])],
            "device": "cpu",
            "_type": "<class 'tensordict._td.TensorDict'>",
        }
        for name, values in level.items():
            meta[name] = {
                "device": "cpu",
                "shape": list(values.shape),
                "dtype": f"torch.{values.dtype}",
                "is_nested": False,
            }
            values.tofile(f"{folder}/{name}.memmap")
        if level is root:
            meta["next"] = {"type": "TensorDict"}
        with open(f"{folder}/meta.json", "w") as file:
            json.dump(meta, file)
