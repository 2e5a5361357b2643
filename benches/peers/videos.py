"""What the peers on videos share: episodes of a LeRobot v3.0 dataset, and two decoders of frames.

A decoder fills a ring of frames: the last frame of a batch is the first of the next, so that every
frame is decoded and copied once, and the two inputs of a model are views of the ring.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CAMERA = "observation.images.top"


def arguments(*more):
    """The options that all peers take, and the moment at which their work begins."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--decoder", choices=["pyav", "torchcodec"], default="pyav")
    parser.add_argument("--workers", type=int, default=2, help="episodes at a time")
    parser.add_argument("--threads", type=int, default=1, help="FFmpeg's threads for each video")
    parser.add_argument("--batch", type=int, default=8)
    for name, options in more:
        parser.add_argument(name, **options)
    return parser.parse_args()


def episodes(corpus):
    """(index, path of the video, first frame, number of frames) of every episode."""
    info = json.loads((corpus / "meta/info.json").read_text())
    table = pq.read_table(corpus / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    for row in table:
        path = info["video_path"].format(
            video_key=CAMERA,
            chunk_index=row[f"videos/{CAMERA}/chunk_index"],
            file_index=row[f"videos/{CAMERA}/file_index"],
        )
        first = round(row[f"videos/{CAMERA}/from_timestamp"] * info["fps"])
        yield row["episode_index"], corpus / path, first, row["length"], info["fps"]


def pyav(path, first, count, fps, threads):
    """Yields frames as RGB arrays, from the key frame before the first on."""
    import av
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO" if threads > 1 else "SLICE"
        stream.codec_context.thread_count = threads
        start = stream.start_time or 0
        if first:
            file.seek(start + round(first / fps / stream.time_base), stream=stream)
        for frame in file.decode(stream):
            index = round(float((frame.pts - start) * stream.time_base) * fps)
            if index >= first + count:
                return
            if index >= first:
                # One converter for all frames: `frame.to_ndarray(format=…)` makes one for each.
                yield reformatter.reformat(frame, format="rgb24").to_ndarray()


def torchcodec(path, first, count, fps, threads, batch):
    """Yields frames as RGB arrays, a batch at a time from the library."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        str(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="approximate"
    )
    for start in range(first, first + count, batch):
        stop = min(start + batch, first + count)
        yield from decoder.get_frames_in_range(start, stop).data.numpy()


def frames(args, path, first, count, fps):
    if args.decoder == "pyav":
        return pyav(path, first, count, fps, args.threads)
    return torchcodec(path, first, count, fps, args.threads, max(args.batch, 16))


def batches(source, size, ahead=1):
    """Yields rings of frames: `size` frames and the `ahead` frames after them, the last repeated.

    With them comes the number of frames that labels are for.
    """
    ring, held = None, 0
    for frame in source:
        if ring is None:
            ring = np.empty((size + ahead, *frame.shape), np.uint8)
        ring[held] = frame
        held += 1
        if held == size + ahead:
            yield ring, size
            ring[:ahead] = ring[size:]
            held = ahead
    while held > 0:
        ring[held:] = ring[held - 1]
        count = min(held, size)
        yield ring, count
        ring[: max(held - count, 0)] = ring[count:held].copy()
        held -= count


def each(args, work):
    """Runs `work` on every episode, `--workers` at a time, and returns the results in order."""
    began = time.perf_counter()
    with ThreadPoolExecutor(args.workers) as pool:
        found = list(pool.map(lambda episode: work(*episode), episodes(args.corpus)))
    import sys

    print(f"inside {time.perf_counter() - began:.4f}", file=sys.stderr)
    return found


def write(args, actions):
    """Writes the actions of all episodes."""
    args.out.mkdir(parents=True, exist_ok=True)
    values = np.concatenate(actions)
    flat = values.reshape(len(values), -1)
    table = pa.table(
        {
            "episode": np.repeat(np.arange(len(actions)), [len(own) for own in actions]),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1]),
        }
    )
    pq.write_table(table, args.out / "labels.parquet", compression="zstd")
