"""Frames stay references until a model or a file needs pixels: through merges, renamed columns,
intermediates and recurrent models.

Frames say which episode and step they show. PyAV says what they are, and onnxruntime, a step at a time,
what a recurrent model makes of them.
"""

import numpy as np
import pytest
from onnx import TensorProto, helper

import networks
import oracle
from oracle import check, close, equal, seeded, trajmill
from oracle import table as steps
from writers.burned import Burned, shown
from writers.video import TOP, WRIST

SIZE = (64, 96)
LENGTHS = [9, 31, 1, 22]


def seeing(folder, size=SIZE):
    """A model that gives its input back."""
    nodes = [helper.make_node("Flatten", ["img"], ["seen"], axis=1)]
    ports = [("img", TensorProto.FLOAT, [*size, 3])]
    return networks.save(
        folder / "seeing.onnx", nodes, ports, [("seen", TensorProto.FLOAT, [3 * size[0] * size[1]])]
    )


def made(folder, random, name, number, lengths=LENGTHS, codec="h264", version="v3.0"):
    return Burned(folder / name, random, lengths, {TOP: codec}, version, number, 10)


def says(found, wanted, what):
    """Checks the episode and the step that the frames of rows show."""
    frames = np.stack(found["seen"].to_pylist()).reshape(-1, *SIZE, 3)
    equal([shown(frame)[1:] for frame in frames], wanted, what)


def score(column, **more):
    return {
        "score": {
            "model": "seeing.onnx",
            "inputs": {"img": column},
            "outputs": {"seen": "seen"},
            **more,
        }
    }


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize("way", ["foreign", "own", "map", "reference"])
def test_frames_of_several_sources_stay_references(tmp_path, way):
    """The plan and the frames are those of each source, whatever the files are named."""
    random = seeded("lazy merge", way)
    sources = [made(tmp_path, random, f"s{number}", number) for number in (0, 1, 2)]
    seeing(tmp_path)
    paths = [{"path": f"s{number}", "format": "lerobot", "frames": "array"} for number in range(3)]
    column = TOP
    if way != "foreign":
        how = ["--videos", "reference"] if way == "reference" else []
        for number in range(3):
            trajmill("import", tmp_path / f"s{number}", tmp_path / f"in{number}", *how)
        paths = [{"path": f"in{number}", "frames": "array"} for number in range(3)]
        if way == "reference":
            paths = [dict(path, videos=f"s{number}") for number, path in enumerate(paths)]
        if way == "map":
            column = "cam"
            paths = [dict(path, map={"cam": TOP}) for path in paths]
    keep = ["seen", "step", "trajectory_id"]
    stages = [
        {"filter": {"steps": "step <> 3"}},
        score(column),
        {"materialise": {"path": "made", "columns": keep}},
    ]
    path = oracle.pipeline(tmp_path / "merge.json", paths, stages)
    trajmill("run", path, "--threads", 2)
    wanted = [
        (episode + 100 * source.number, step)
        for source in sources
        for episode, length in enumerate(source.lengths)
        for step in range(length)
        if step != 3
    ]
    says(steps(tmp_path / "made"), wanted, way)
    # The frames themselves, in a file.
    arrays = oracle.pipeline(
        tmp_path / "arrays.json",
        paths,
        [{"materialise": {"path": "arrays", "columns": [column]}}],
    )
    trajmill("run", arrays)
    found = steps(tmp_path / "arrays")[column].combine_chunks()
    frames = np.asarray(found.flatten()).reshape(-1, *SIZE, 3)
    wanted = [
        (episode + 100 * source.number, step)
        for source in sources
        for episode, length in enumerate(source.lengths)
        for step in range(length)
    ]
    equal([shown(frame)[1:] for frame in frames], wanted, f"{way}: arrays")


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize("named", [False, True], ids=["array", "named"])
@pytest.mark.parametrize("how", ["link", "reference"])
def test_frames_are_seen_after_an_intermediate(tmp_path, how, named):
    random = seeded("lazy sort", how)
    source = made(tmp_path, random, "s", 0)
    seeing(tmp_path)
    path = {"path": "s", "format": "lerobot"}
    if not named:
        path["frames"] = "array"
    stages = [
        {"filter": {"steps": "step >= 1"}},
        {"summarise": {"most": "max(step)"}},
        {"sort": {"by": "-most"}},
        score(f'frame("{TOP}")' if named else TOP),
        {"materialise": {"path": "made", "columns": ["seen"], "videos": how}},
    ]
    trajmill("run", oracle.pipeline(tmp_path / "sort.json", path, stages))
    order = sorted(range(len(LENGTHS)), key=lambda episode: -LENGTHS[episode])
    wanted = [(episode, step) for episode in order for step in range(1, LENGTHS[episode])]
    says(steps(tmp_path / "made"), wanted, how)


@pytest.mark.model
@pytest.mark.video
def test_memory_does_not_grow_with_what_is_labelled(tmp_path):
    """With several sources, with an intermediate, and with a recurrent model: 170 MiB of frames."""

    class Large(Burned):
        def size(self, code):
            return 240, 320

    random = seeded("lazy memory")
    peaks = {}
    model = recurrent(tmp_path, (240, 320))
    for length in (4, 400):
        for number in (0, 1):
            name = f"s{length}-{number}"
            Large(tmp_path / name, random, [length, length // 4], {TOP: "h264"}, "v3.0", number)
        paths = [
            {"path": f"s{length}-{number}", "format": "lerobot", "frames": "array"}
            for number in (0, 1)
        ]
        stages = [
            {"filter": {"steps": "step >= 1"}},
            {"summarise": {"most": "max(step)"}},
            {"sort": {"by": "-most"}},
            score(TOP, model=model, state={"h": "h_out"}),
            {"materialise": {"path": f"made{length}", "columns": ["seen"]}},
        ]
        path = oracle.pipeline(tmp_path / f"{length}.json", paths, stages)
        peaks[length] = oracle.peak_memory("run", path, "--threads", 1, "--memory", "128M")
    # 1,000 frames have 220 MiB.
    check(peaks[400] < peaks[4] + 110, f"{peaks} MiB")


def recurrent(folder, size):
    """A model that adds the mean of what it sees to a state that fades."""
    nodes = [
        helper.make_node("ReduceMean", ["img"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["h", "fades"], ["before"]),
        helper.make_node("Add", ["before", "mean"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["seen"]),
    ]
    return networks.save(
        folder / "recurrent.onnx",
        nodes,
        [("img", TensorProto.FLOAT, [*size, 3]), ("h", TensorProto.FLOAT, [3])],
        [("seen", TensorProto.FLOAT, [3]), ("h_out", TensorProto.FLOAT, [3])],
        [("fades", np.array([0.5], np.float32))],
    )


@pytest.mark.model
@pytest.mark.video
@pytest.mark.parametrize("frames", ["reference", "array"])
@pytest.mark.parametrize("offset", [0, 3])
def test_a_recurrent_model_sees_frames_step_by_step(tmp_path, frames, offset):
    random = seeded("lazy recurrent", offset)
    lengths = [9, 31, 1, 22, 14, 5, 17]
    source = made(tmp_path, random, "s", 0, lengths)
    model = recurrent(tmp_path, SIZE)
    column = TOP if frames == "array" and offset == 0 else f'frame("{TOP}", {offset})'
    outputs = {}
    for threads in (1, 3):
        stages = [
            score(column, model=model, state={"h": "h_out"}, batch=3, edge="repeat"),
            {"materialise": {"path": f"made{threads}", "columns": ["seen"]}},
        ]
        path = {"path": "s", "format": "lerobot", "frames": frames}
        run = oracle.pipeline(tmp_path / f"{threads}.json", path, stages)
        trajmill("run", run, "--threads", threads)
        outputs[threads] = steps(tmp_path / f"made{threads}")
    check(outputs[1].equals(outputs[3]), "the same values with 1 and 3 threads")
    trajmill("import", tmp_path / "s", tmp_path / "pixels", "--frames", "array")
    pixels = steps(tmp_path / "pixels")[TOP].combine_chunks().flatten()
    pixels = np.asarray(pixels).reshape(-1, *SIZE, 3).astype(np.float32)
    wanted, start = [], 0
    for episode, length in enumerate(lengths):
        own, state = pixels[start : start + length], np.zeros((1, 3), np.float32)
        equal(shown(own[0])[1:], (episode, 0), "the first frame")
        for step in range(length):
            seen = own[min(step + offset, length - 1)]
            state = networks.predict(model, {"img": seen[None], "h": state})["h_out"]
            wanted.append(state[0])
        start += length
    found = np.stack(outputs[1]["seen"].to_pylist())
    close(found, np.stack(wanted), "the state of each step", rtol=1e-5)
