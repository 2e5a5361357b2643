"""Tests whether semi-supervised offline RL (SS-ORL) with trajmill does what its paper says.

    benches/ssorl/run               # the whole study: about four hours on two cores
    benches/ssorl/run --reduced     # one environment, one seed, few updates: minutes
    benches/ssorl/run --report      # only the tables and the picture, from existing results

A tenth of a corpus's trajectories keep their actions. An inverse dynamics model, trained on them,
labels the others, and TD3+BC trains a policy on all of them (Zheng et al., ICML 2023). The
pipelines in this directory write the datasets.

Every result is saved in $BENCH_DATA/ssorl as soon as it is known. The same command continues from
there, and from the results of the last report. The seeds run one after the other, so an incomplete
study has all settings of the first seeds.
"""

import os

# Two jobs share two cores, so each has one thread. This must be set before numpy and torch load.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Shares of the ranking by return that labelled trajectories are drawn from, from the lowest up.
LOWEST = [0.1, 0.3, 0.5, 0.7, 1.0]
#: Windows of the model: the number of past and of future observations besides the step's own. The
#: paper's is (1, 1). The last is like VPT's: as many observations after the transition as before.
WINDOWS = [(0, 1), (2, 1), (2, 3)]
#: Thirds of the ranking by return.
THIRDS = {"low": (0.0, 1 / 3), "middle": (1 / 3, 2 / 3), "high": (2 / 3, 1.0)}
#: Shares of a corpus's trajectories: labelled and unlabelled.
QUANTITIES = [(0.02, 0.1), (0.02, 0.45), (0.2, 0.1), (0.2, 0.45)]
FULL = {
    "environments": ["hopper", "halfcheetah"],
    "mixtures": ["medium-replay", "medium-expert"],
    "seeds": 3,
    "steps": 150_000,
    "updates": 10_000,
    "rollouts": 10,
}
REDUCED = {
    "environments": ["hopper"],
    "mixtures": ["medium-replay"],
    "seeds": 1,
    "steps": 20_000,
    "updates": 200,
    "rollouts": 2,
}


@dataclass(frozen=True)
class Job:
    """Datasets that are made together, each for one policy."""

    environment: str
    mixture: str
    seed: int
    #: The part of the study: oracle, coupled, window, quality or quantity.
    part: str
    #: The name of the setting, unique in its part.
    setting: str
    #: Parameters of the pipelines.
    given: tuple = ()

    def kinds(self):
        """The kinds of datasets that the job makes."""
        if self.part == "oracle":
            return ["oracle"]
        return ["labelled", "proxy", "certain"] if self.part == "coupled" else ["proxy"]

    def key(self, kind):
        """The key of a result."""
        return "/".join(
            [self.environment, self.mixture, self.part, self.setting, kind, str(self.seed)]
        )


def jobs(size, reduced):
    """All jobs: the main question first, and seed by seed."""
    corpora = [(e, m) for m in size["mixtures"] for e in size["environments"]]
    for seed in range(1, size["seeds"] + 1):
        for corpus in corpora:
            yield Job(*corpus, seed, "oracle", "-")
        for lowest in [0.5] if reduced else LOWEST:
            for corpus in corpora:
                yield Job(*corpus, seed, "coupled", f"{lowest:.0%}", (("lowest", lowest),))
    for seed in range(1, size["seeds"] + 1):
        for past, future in WINDOWS[:1] if reduced else WINDOWS:
            for corpus in corpora:
                yield Job(
                    *corpus,
                    seed,
                    "window",
                    f"{past} + {future}",
                    (("lowest", 0.5), ("past", past), ("future", future)),
                )
    for seed in range(1, size["seeds"] + 1):
        for environment in size["environments"]:
            corpus = (environment, "medium-replay")
            for labelled in ["low"] if reduced else THIRDS:
                for unlabelled in ["high"] if reduced else THIRDS:
                    given = (
                        ("labelled", THIRDS[labelled]),
                        ("unlabelled", THIRDS[unlabelled]),
                        ("shares", (0.05, 0.15)),
                    )
                    yield Job(*corpus, seed, "quality", f"{labelled} → {unlabelled}", given)
            for shares in [] if reduced else QUANTITIES:
                given = (("labelled", (0.0, 1.0)), ("unlabelled", (0.0, 1.0)), ("shares", shares))
                yield Job(*corpus, seed, "quantity", f"{shares[0]:.0%} → {shares[1]:.0%}", given)


class Pipelines:
    """Runs the pipelines of a job in its own directory."""

    def __init__(self, trajmill, folder, dims):
        self.trajmill, self.folder = trajmill, folder
        # The embedded runtime is enough, because jobs already use all cores.
        self.environment = dict(os.environ, TRAJMILL_RUNTIME="rten")
        each = range(1, dims + 1)
        self.error = " + ".join(f"power(action[{i}] - true_action[{i}], 2)" for i in each)
        self.spread = " + ".join(f"action_std[{i}]" for i in each)
        self.variance = " + ".join(f"var_pop(true_action[{i}])" for i in each)

    def call(self, *words):
        done = subprocess.run(
            [self.trajmill, *map(str, words)], capture_output=True, text=True, env=self.environment
        )
        if done.returncode:
            raise RuntimeError(
                f"trajmill {' '.join(map(str, words))}\n"
                f"exited with {done.returncode}:\n{done.stderr}"
            )
        return done.stdout

    def run(self, name, out, **params):
        out = self.folder / out
        sets = [
            word
            for key, value in (params | {"out": out}).items()
            for word in ("--set", f"{key}={value}")
        ]
        self.call("run", HERE / "pipelines" / f"{name}.yaml", "--threads", 1, *sets)
        return out

    def labels(self, name, **params):
        """A dataset with proxy labels, and the error of the labels by split."""
        out = self.run(
            name,
            "proxy",
            model=self.folder / "idm.onnx",
            squared_error=self.error,
            spread=self.spread,
            **params,
        )
        query = f"""
            select split, avg(squared_error) as error, {self.variance} as variance
            from steps join trajectories using (trajectory_id)
            where action_source = 'proxy' group by split"""
        rows = map(json.loads, self.call("sql", out, "-c", query, "--format", "json").splitlines())
        return out, {
            row["split"]: {"error": row["error"], "variance": row["variance"]} for row in rows
        }

    def datasets(self, job, corpus, trajectories):
        """The files for d3rlpy, by kind, and the error of the labels by split."""
        given, errors, files = dict(job.given), None, {}
        if job.part == "oracle":
            return {"oracle": self.run("whole", "oracle.h5", source=corpus)}, None
        if job.part in ("coupled", "window"):
            proxy, errors = self.labels("proxy", source=corpus, seed=job.seed, **given)
        else:
            sides = []
            for side, (name, share) in enumerate(zip(("labelled", "unlabelled"), given["shares"])):
                above, below = given[name]
                count = max(2, round(share * trajectories))
                sides.append(
                    self.run(
                        "part",
                        name,
                        source=corpus,
                        side=side,
                        above=above,
                        below=below,
                        count=count,
                        keep=float(side == 0),
                        seed=job.seed,
                    )
                )
            proxy, errors = self.labels(
                "decoupled", labelled=sides[0], unlabelled=sides[1], seed=job.seed
            )
        if job.part == "coupled":
            files["labelled"] = self.run(
                "labelled", "labelled.h5", source=corpus, seed=job.seed, **given
            )
            files["certain"] = self.run("certain", "certain.h5", source=proxy)
        files["proxy"] = self.run("whole", "proxy.h5", source=proxy)
        return files, errors


def work(job, kinds, size, folder, trajmill):
    """The results of a job for the given kinds."""
    warnings.filterwarnings("ignore")
    import d3rlpy
    import structlog

    import corpora
    import td3bc

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    environment = corpora.ENVIRONMENTS[job.environment]
    corpus = corpora.make(job.environment, job.mixture, size["steps"], folder, trajmill)
    manifest = json.loads((corpus / "dataset.json").read_text())
    place = folder / "work" / job.key("-").replace("/", "_").replace(" ", "")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    pipelines = Pipelines(trajmill, place, environment.make().action_space.shape[0])
    began = time.monotonic()
    files, errors = pipelines.datasets(job, corpus, manifest["statistics"]["trajectories"])
    made, results = time.monotonic() - began, []
    for kind in kinds:
        began = time.monotonic()
        algorithm, transitions = td3bc.train(files[kind], job.seed, size["updates"])
        returns = td3bc.evaluate(algorithm, environment, job.seed, size["rollouts"])
        results.append(
            {
                "key": job.key(kind),
                "environment": job.environment,
                "mixture": job.mixture,
                "part": job.part,
                "setting": job.setting,
                "kind": kind,
                "seed": job.seed,
                "returns": returns,
                "transitions": transitions,
                "label_error": None if kind == "labelled" else errors,
                "data_s": round(made, 1),
                "training_s": round(time.monotonic() - began, 1),
                "d3rlpy": d3rlpy.__version__,
            }
        )
    shutil.rmtree(place)
    return results


def read(path, reported, size):
    """Results by key, from the last report of this size and from the log of results."""
    report = json.loads(reported.read_text()) if reported.exists() else {}
    results = {
        result["key"]: result for result in report.get("results", []) if report["size"] == size
    }
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            # The study was killed while it wrote this line.
            continue
        results[result["key"]] = result
    return results


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trajmill",
        default=str(HERE.parents[1] / "target/release/trajmill"),
        help="trajmill's binary [target/release/trajmill]",
    )
    parser.add_argument(
        "--reduced", action="store_true", help="one environment, one seed, few updates"
    )
    parser.add_argument(
        "--report", action="store_true", help="write only the tables and the picture"
    )
    parser.add_argument("--updates", type=int, help="updates of TD3+BC [10000; 200 with --reduced]")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        help="start no job after this time [no limit]",
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="jobs that run at once [2]"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=HERE.parent / "results",
        help="directory for the tables and the picture [benches/results]",
    )
    arguments = parser.parse_args()
    size = dict(REDUCED if arguments.reduced else FULL)
    if arguments.updates:
        size["updates"] = arguments.updates
    # Results of different sizes are kept apart.
    name = "-".join(str(size[key]) for key in ("steps", "updates", "rollouts"))
    folder = Path(os.environ["BENCH_DATA"]).resolve() / "ssorl" / name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "results.jsonl"
    title = "ssorl-reduced" if arguments.reduced else "ssorl"
    done, began = read(log, arguments.results / f"{title}.json", size), time.monotonic()
    trajmill = str(Path(arguments.trajmill).resolve())

    import corpora
    import report

    every = list(jobs(size, arguments.reduced))
    failures = 0
    with ProcessPoolExecutor(arguments.jobs) as pool, log.open("a") as kept:
        if not arguments.report:
            # Jobs share the reference returns and the corpora, so these are made first.
            list(
                pool.map(
                    corpora.references, size["environments"], [folder] * len(size["environments"])
                )
            )
            pairs = [(e, m) for e in size["environments"] for m in size["mixtures"]]
            list(
                pool.map(
                    corpora.make,
                    *zip(*pairs),
                    *([value] * len(pairs) for value in (size["steps"], folder, trajmill)),
                )
            )
            left = [
                (job, kinds)
                for job in every
                if (kinds := [kind for kind in job.kinds() if job.key(kind) not in done])
            ]
            print(
                f"{len(done)} results exist, {sum(len(kinds) for _, kinds in left)} are missing",
                flush=True,
            )
            queue, running = iter(left), {}

            def begin():
                while (
                    len(running) < arguments.jobs
                    and time.monotonic() - began < arguments.minutes * 60
                ):
                    job, kinds = next(queue, (None, None))
                    if job is None:
                        return
                    running[pool.submit(work, job, kinds, size, folder, trajmill)] = job

            begin()
            while running:
                future = next(as_completed(running))
                job = running.pop(future)
                try:
                    results = future.result()
                except Exception as error:
                    failures += 1
                    print(f"{job.key('-')}: {error}", file=sys.stderr, flush=True)
                    results = []
                for result in results:
                    kept.write(json.dumps(result) + "\n")
                    kept.flush()
                    done[result["key"]] = result
                    mean = sum(result["returns"]) / len(result["returns"])
                    print(
                        f"{(time.monotonic() - began) / 60:.0f} min  {result['key']}: "
                        f"return {mean:.0f}, {result['training_s']:.0f} s",
                        flush=True,
                    )
                begin()
    scale = {name: corpora.references(name, folder) for name in size["environments"]}
    expected = sum(len(job.kinds()) for job in every)
    report.write(list(done.values()), scale, size, expected, arguments.results, title)
    if failures:
        sys.exit(f"{failures} jobs failed")


if __name__ == "__main__":
    main()
