"""The binary under test, the runtime that models run on, and the conditions for skipping tests."""

import importlib.util
import os
import pathlib
import sys

import pytest

import oracle
from writers import odd

# No runtime has this name, so a test that loads a model fails unless it is marked `model`.
NO_RUNTIME = "no-model-is-loaded-here"
# What the environment asks for; where it asks for nothing, trajmill chooses.
RUNTIME = os.environ.get("TRAJMILL_RUNTIME")
# trajmill looks for ONNX Runtime in the active environment: here that is the one that runs pytest.
if sys.prefix != sys.base_prefix:
    os.environ["VIRTUAL_ENV"] = sys.prefix


def pytest_addoption(parser):
    group = parser.getgroup("trajmill")
    group.addoption(
        "--trajmill",
        metavar="PATH",
        default=os.environ.get("TRAJMILL"),
        help="the binary to test (default: $TRAJMILL, else the release build of this checkout)",
    )
    group.addoption(
        "--all",
        action="store_true",
        help="fail instead of skipping where a library or the feature `video` is missing",
    )


def pytest_configure(config):
    for line in [
        "model: loads a model, so that it is run with every runtime (TRAJMILL_RUNTIME)",
        "reference(*names): needs Python packages of tests/requirements-all.txt",
        "video: needs a trajmill with the Cargo feature `video`",
    ]:
        config.addinivalue_line("markers", line)


def pytest_sessionstart(session):
    if not session.config.option.collectonly:
        oracle.BINARY = binary(session.config.option.trajmill)


def binary(named):
    """The path of the named binary, or of a release build that is newer than the sources."""
    if named:
        path = pathlib.Path(named).resolve()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise pytest.UsageError(
                f"{path} is not an executable file; --trajmill and $TRAJMILL name the binary"
            )
        return str(path)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or oracle.REPOSITORY / "target")
    path = target.resolve() / "release" / "trajmill"
    build = "run `cargo build --release --bin trajmill`, or name a binary with --trajmill PATH"
    if not path.exists():
        raise pytest.UsageError(f"there is no {path}: {build}")
    newest = max(
        (oracle.REPOSITORY / "src").rglob("*.rs"), key=lambda source: source.stat().st_mtime
    )
    if newest.stat().st_mtime > path.stat().st_mtime:
        raise pytest.UsageError(f"{path} is older than {newest}: {build}")
    return str(path)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Sets the runtime before any fixture runs, and skips tests for which something is missing."""
    runtime = RUNTIME if item.get_closest_marker("model") else NO_RUNTIME
    if runtime is None:
        os.environ.pop("TRAJMILL_RUNTIME", None)
    else:
        os.environ["TRAJMILL_RUNTIME"] = runtime
    missing = pytest.fail if item.config.option.all else pytest.skip
    for mark in item.iter_markers("reference"):
        for name in mark.args:
            if importlib.util.find_spec(name) is None:
                missing(f"the package `{name}` is not installed (tests/requirements-all.txt)")
    if item.get_closest_marker("video") and not oracle.decodes_videos():
        missing("this trajmill is built without the Cargo feature `video`")


def pytest_terminal_summary(terminalreporter):
    checks = f"{oracle.checks:,}".replace(",", " ")
    terminalreporter.write_line(
        f"{checks} checks of {oracle.BINARY}, models on {RUNTIME or 'the default runtime'}"
    )


@pytest.fixture(scope="module")
def shared(request, tmp_path_factory):
    """A folder for datasets that the tests of a module share."""
    return tmp_path_factory.mktemp(request.module.__name__)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Odd trajectories (writers/odd.py) in several shards; `whole` is their dataset of one shard.

    `known` tells by trajectory where `x`, whose NaN are values, is not null.
    """
    folder = tmp_path_factory.mktemp("odd")
    odd.write(folder / "odd.parquet")
    oracle.trajmill("import", folder / "odd.parquet", folder / "whole", "--from", "parquet")
    made = oracle.run(folder, [], folder / "whole", name="shards", shard_rows=40)
    made.whole = folder / "whole"
    known = oracle.table(made.path)["x"].is_valid().to_numpy()
    made.known = {own["id"]: known[span] for own, span in zip(made, made.spans)}
    return made


@pytest.fixture
def made(request, tmp_path):
    """What a recipe writes (recipes.py)."""
    return oracle.recipe(tmp_path, request.param)
