"""Links in HDF5 files are followed, or named: what is behind them never disappears in silence."""

import json

import h5py
import numpy as np
import pytest

from oracle import check, equal, manifest, says, seeded, table, trajmill
from oracle import valid_rows as column

VERSIONS = ["earliest", "latest"]
STEPS = 12


def arrays():
    random = seeded("links")
    ends = np.arange(STEPS) % 4 == 3
    return {
        "observations": random.normal(size=(STEPS, 3)).astype(np.float32),
        "actions": random.normal(size=(STEPS, 2)).astype(np.float32),
        "rewards": random.normal(size=STEPS).astype(np.float32),
        "terminals": ends,
        "timeouts": np.zeros(STEPS, bool),
    }


def written(path, libver, more=0, **options):
    """Writes a file with flat arrays, and `more` arrays under `infos`. Returns it open."""
    file = h5py.File(path, "w", libver=libver, **options)
    for name, values in arrays().items():
        file[name] = values
    for index in range(more):
        file[f"infos/number_{index}"] = np.arange(STEPS) + index
    return file


def imported(tmp_path, *options, code=0):
    return trajmill("import", tmp_path / "in.hdf5", tmp_path / "made", *options, code=code)


def values(tmp_path, name):
    return column(table(tmp_path / "made"), name)[1]


def left_out(tmp_path):
    entries = manifest(tmp_path / "made")["lineage"]["imports"][0]["left_out"]
    return {entry["name"]: entry["reason"] for entry in entries}


# Few links are in the group's header, and many are in a heap that a tree lists: of one node, and of
# several levels.
@pytest.mark.parametrize("more", [0, 30, 3000])
@pytest.mark.parametrize("libver", VERSIONS)
def test_soft_links_are_followed(tmp_path, libver, more):
    with written(tmp_path / "in.hdf5", libver, more, userblock_size=512) as file:
        file["kept/elsewhere"] = np.arange(STEPS) * 2.0
        for index in range(more // 2):
            # Gaps in the heap.
            del file[f"infos/number_{index * 2}"]
        file["infos/speed"] = h5py.SoftLink("/kept/again")
        file["kept/again"] = h5py.SoftLink("elsewhere")
        file["all"] = h5py.SoftLink("infos")
    # So many columns take long, so few of them are read.
    few = ["observations", "actions", "rewards", "kept", "*/speed", "*/number_*77"]
    imported(tmp_path, *[word for name in few if more > 100 for word in ("--only", name)])
    with h5py.File(tmp_path / "in.hdf5") as file:
        names = list(file["infos"])
        check(len(names) == 1 + more - more // 2, "the links of the file")
        names = [name for name in names if more <= 100 or name.endswith("77") or name == "speed"]
        expected = {f"{group}/{name}" for group in ("infos", "all") for name in names}
        for name in expected:
            equal(values(tmp_path, name), file[name][()], name)
    found = {name for name in table(tmp_path / "made").column_names if "/" in name}
    check(found == expected | {"kept/elsewhere", "kept/again"}, f"{len(found)} columns")


REFUSED = {
    "external": (h5py.ExternalLink("other.hdf5", "/x"), "a link to `/x` in the file other.hdf5"),
    "dangling": (h5py.SoftLink("/nowhere/x"), "a soft link to `/nowhere/x`, where nothing is"),
    "through an array": (h5py.SoftLink("/rewards/x"), "a soft link to `/rewards/x`, where nothing"),
    "itself": (h5py.SoftLink("/GROUP/link"), "a soft link that leads to itself"),
    "its group": (h5py.SoftLink("/"), "leads back to a group that it is in"),
    "to an external link": (h5py.SoftLink("/far"), "a soft link to `/far`, which is a link to"),
}


@pytest.mark.parametrize("more", [0, 30])
@pytest.mark.parametrize("group", ["", "infos/"])
@pytest.mark.parametrize("libver", VERSIONS)
@pytest.mark.parametrize("kind", REFUSED)
def test_links_that_are_not_followed_are_named(tmp_path, kind, libver, group, more):
    link, message = REFUSED[kind]
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.arange(STEPS)
    with written(tmp_path / "in.hdf5", libver, more) as file:
        if kind == "itself":
            link = h5py.SoftLink(f"/{group}link")
        file[f"{group}link"] = link
        skips = [f"{group}link"]
        if kind == "to an external link":
            file["far"] = REFUSED["external"][0]
            skips.append("far")
    refused = imported(tmp_path, code=1).stderr
    if kind == "to an external link" and not group:
        says(refused, ["`far` is a link to `/x` in the file other.hdf5", "--skip 'far'"], "it")
        refused = imported(tmp_path, "--skip", "far", code=1).stderr
    elif kind == "to an external link":
        refused = imported(tmp_path, "--skip", "far", code=1).stderr
    says(refused, [f"`{group}link` ", message, f"--skip '{group}link'"], "the error")
    check(not (tmp_path / "made").exists(), "nothing is written")
    options = [word for name in skips for word in ("--skip", name)]
    imported(tmp_path, *options)
    for name in skips:
        check(left_out(tmp_path)[name] == "`skip` matches it", str(left_out(tmp_path)))
    equal(values(tmp_path, "observation"), arrays()["observations"], "observations")


def test_the_copy_that_the_error_recommends_has_everything(tmp_path):
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["x"] = np.arange(STEPS)
    with written(tmp_path / "links.hdf5", "latest", 30) as file:
        file["infos/far"] = h5py.ExternalLink("other.hdf5", "/x")
        file["far"] = h5py.ExternalLink("other.hdf5", "/x")
    with (
        h5py.File(tmp_path / "links.hdf5") as source,
        h5py.File(tmp_path / "in.hdf5", "w") as target,
    ):
        for name in source:
            source.copy(source[name], target, name, expand_soft=True, expand_external=True)
    imported(tmp_path)
    for name in ("far", "infos/far"):
        equal(values(tmp_path, name), np.arange(STEPS), name)


@pytest.mark.parametrize("libver", VERSIONS)
def test_groups_that_link_to_groups_end(tmp_path, libver):
    """Twelve levels of ten links each are 10^12 paths to the same few groups."""
    with written(tmp_path / "in.hdf5", libver) as file:
        for level in range(12):
            file.create_group(f"level_{level}")
        for level in range(11):
            for index in range(10):
                file[f"level_{level}"][f"{index}"] = file[f"level_{level + 1}"]
    says(imported(tmp_path, code=1).stderr, ["the same groups more than 1000 times"], "the error")


@pytest.mark.parametrize("libver", VERSIONS)
def test_a_hard_link_back_is_named(tmp_path, libver):
    with written(tmp_path / "in.hdf5", libver) as file:
        file["infos/deep/up"] = file["infos"] if "infos" in file else file.create_group("infos")
    says(imported(tmp_path, code=1).stderr, ["`infos/deep/up` leads back to a group"], "the error")
    imported(tmp_path, "--skip", "infos/deep/up")


@pytest.mark.parametrize("libver", VERSIONS)
def test_demonstrations_behind_links(tmp_path, libver):
    """A file of links to demonstrations in one file is read, and to other files is refused."""
    random = seeded("demonstrations behind links")
    made = [random.uniform(-1, 1, (4, 2)) for _ in range(3)]
    with h5py.File(tmp_path / "in.hdf5", "w", libver=libver) as file:
        for index, actions in enumerate(made):
            file[f"all/demo_{index}/actions"] = actions
            file[f"all/demo_{index}/obs/x"] = actions * 2
            file[f"data/demo_{index}"] = h5py.SoftLink(f"/all/demo_{index}")
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1})
        file["data/notes"] = np.arange(3)
    imported(tmp_path)
    equal(values(tmp_path, "action"), np.concatenate(made), "actions")
    reason = "it is not in a demonstration"
    check(left_out(tmp_path) == {"all": reason, "data/notes": reason}, str(left_out(tmp_path)))
    with h5py.File(tmp_path / "in.hdf5", "a") as file:
        file["data/demo_3"] = h5py.ExternalLink("other.hdf5", "/data/demo_0")
    done = trajmill("import", tmp_path / "in.hdf5", tmp_path / "again", code=1)
    says(done.stderr, ["in.hdf5", "`demo_3` is a link to `/data/demo_0` in the file"], "the error")
