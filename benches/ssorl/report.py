"""The tables and the picture of the study."""

import json
from collections import defaultdict

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 2000
KINDS = ["labelled", "proxy", "certain"]
NAMES = {
    "oracle": "all actions (oracle)",
    "labelled": "labelled only",
    "proxy": "proxy-labelled",
    "certain": "proxy, most uncertain tenth dropped",
}


def interquartile(scores):
    """The mean of the middle half (Agarwal et al., 2021)."""
    return float(trim_mean(scores, 0.25))


class Group:
    """The normalised returns of one setting, by corpus."""

    def __init__(self, results, scale):
        self.by_corpus = defaultdict(list)
        for result in results:
            low, high = scale[result["environment"]]
            self.by_corpus[result["environment"], result["mixture"]].append(
                (np.mean(result["returns"]) - low) / (high - low)
            )

    def scores(self):
        return np.concatenate([np.asarray(own) for own in self.by_corpus.values()])

    def interval(self):
        """The 95 % interval of the interquartile mean, by a bootstrap within each corpus."""
        random = np.random.default_rng(0)
        parts = [np.asarray(own) for own in self.by_corpus.values()]
        drawn = [
            interquartile(np.concatenate([random.choice(own, len(own)) for own in parts]))
            for _ in range(RESAMPLES)
        ]
        return np.quantile(drawn, [0.025, 0.975]).tolist()


def gap(results, oracle):
    """The mean over corpora of (oracle - own) / oracle, in returns.

    `None` if a corpus has no oracle yet, or one whose return is not positive.
    """
    own, best = defaultdict(list), defaultdict(list)
    for into, given in ((own, results), (best, oracle)):
        for result in given:
            into[result["environment"], result["mixture"]].append(np.mean(result["returns"]))
    # The gap to an oracle that earns nothing has no meaning.
    if not own or set(own) - set(best) or min(np.mean(best[corpus]) for corpus in own) <= 0:
        return None
    return float(np.mean([1 - np.mean(own[corpus]) / np.mean(best[corpus]) for corpus in own]))


def error(results, split):
    """The mean over runs of the labels' squared error, as a share of the true actions' variance.

    The error is that of all labels, so it is not given for results without the most uncertain ones.
    """
    found = [
        r["label_error"][split]
        for r in results
        if r["kind"] == "proxy" and r["label_error"] and split in r["label_error"]
    ]
    return float(np.mean([each["error"] / each["variance"] for each in found])) if found else None


def row(name, results, oracle, scale):
    """The figures of one setting."""
    group = Group(results, scale)
    low, high = group.interval()
    far, within, beyond = (
        gap(results, oracle),
        error(results, "in_dist"),
        error(results, "out_dist"),
    )
    return {
        "name": name,
        "runs": len(results),
        "mean": float(group.scores().mean()),
        "iqm": interquartile(group.scores()),
        "low": low,
        "high": high,
        "gap": far,
        "in_dist": within,
        "out_dist": beyond,
    }


def table(rows):
    def share(value):
        return "" if value is None else f"{100 * value:.1f} %"

    lines = [
        "| setting | runs | mean | interquartile mean | 95 % interval | gap to the oracle "
        "| label error, in_dist | label error, out_dist |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        cells = [
            r["name"],
            str(r["runs"]),
            f"{r['mean']:.3f}",
            f"{r['iqm']:.3f}",
            f"{r['low']:.3f} to {r['high']:.3f}",
            share(r["gap"]),
            share(r["in_dist"]),
            share(r["out_dist"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(title, rows):
    """A section with a table; empty if there are no rows yet."""
    return f"\n## {title}\n\n{table(rows)}\n" if rows else ""


def draw(rows, oracle, path):
    """Draws the interquartile mean by the share of the ranking that labels come from."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ssorl"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4))
    for kind in KINDS:
        own = [(float(r["setting"].rstrip("%")), r) for r in rows if r["kind"] == kind]
        if own:
            x = [at for at, _ in own]
            y, low, high = ([r[key] for _, r in own] for key in ("iqm", "low", "high"))
            (line,) = axes.plot(x, y, marker="o", label=NAMES[kind])
            axes.fill_between(x, low, high, alpha=0.15, color=line.get_color())
    if oracle:
        axes.axhline(oracle["iqm"], color="black", linestyle="--", label=NAMES["oracle"])
        axes.axhspan(oracle["low"], oracle["high"], color="black", alpha=0.07)
    axes.set(
        xlabel="labelled trajectories drawn from the lowest … % of returns",
        ylabel="normalised return (interquartile mean)",
    )
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def write(results, scale, size, expected, folder, name):
    """Writes the tables as Markdown, all runs as JSON, and the picture as SVG."""
    # The process that imports this module forks others, and only those may load PyTorch.
    import td3bc

    by = defaultdict(list)
    for result in results:
        by[result["part"], result["setting"], result["kind"]].append(result)
    oracle = by.get(("oracle", "-", "oracle"), [])
    parts = defaultdict(list)
    if oracle:
        parts["oracle"].append(row(NAMES["oracle"], oracle, oracle, scale))
    for (part, setting, kind), own in by.items():
        if part != "oracle":
            label = {
                "coupled": f"lowest {setting}, {NAMES[kind]}",
                "window": f"window {setting}",
                "quality": f"quality {setting}",
                "quantity": f"quantity {setting}",
            }[part]
            parts[part].append(row(label, own, oracle, scale) | {"setting": setting, "kind": kind})
    # Results are in the order in which the jobs ended.
    thirds = ["low", "middle", "high"]
    parts["quality"].sort(
        key=lambda r: [thirds.index(third) for third in r["setting"].split(" → ")]
    )
    parts["coupled"].sort(key=lambda r: (float(r["setting"].rstrip("%")), KINDS.index(r["kind"])))
    folder.mkdir(parents=True, exist_ok=True)
    draw(parts["coupled"], parts["oracle"][0] if oracle else None, folder / f"{name}.svg")
    corpora = [f"{e} {m}" for e in size["environments"] for m in size["mixtures"]]
    by_corpus = [
        "| corpus | " + " | ".join(NAMES[k] for k in ["oracle", *KINDS]) + " |",
        "|---|---|---|---|---|",
    ]
    for corpus in corpora:
        cells = []
        for kind in ["oracle", *KINDS]:
            returns = [
                np.mean(r["returns"])
                for r in results
                if f"{r['environment']} {r['mixture']}" == corpus
                and r["kind"] == kind
                and r["part"] in ("oracle", "coupled")
            ]
            cells.append(f"{np.mean(returns):.0f}" if returns else "")
        by_corpus.append(f"| {corpus} | " + " | ".join(cells) + " |")
    hidden = " × ".join(map(str, td3bc.HIDDEN))
    references = ", ".join(f"{e}: {low:.0f} and {high:.0f}" for e, (low, high) in scale.items())
    text = f"""# Semi-supervised offline RL on our own corpora

{len(results)} of {expected} runs are done.

- The corpora are {", ".join(corpora)}.
  Each has {size["steps"]:,} steps.
- A policy is trained with TD3+BC: {size["updates"]:,} updates with batches of {td3bc.BATCH},
  networks of {hidden} and a learning rate of {td3bc.LEARNING_RATE:g}.
  It is evaluated on {size["rollouts"]} trajectories.
- Returns are normalised: 0 is the return of random actions, 1 that of the best policy of the
  search, without noise ({references}).
- The gap to the oracle is the mean over corpora of (oracle - own) / oracle, in returns.
- The label error is the squared error of the proxy labels, before any are dropped, as a share of
  the variance of the true actions. `in_dist` is measured on the unlabelled trajectories with
  returns in the range that labelled trajectories were drawn from (with data chosen independently,
  on all unlabelled trajectories), and `out_dist` on those with higher returns.

## A tenth of the trajectories labelled, drawn from the lowest returns

{table(parts["oracle"] + parts["coupled"])}

The mean return by corpus, over all shares and seeds:

{chr(10).join(by_corpus)}

![interquartile means]({name}.svg)
"""
    text += section(
        "The window of the model: past + future observations "
        "(lowest 50%, proxy-labelled; the tables above have 1 + 1)",
        parts["window"],
    )
    text += section(
        "Labelled and unlabelled data chosen independently "
        "(medium-replay; thirds of returns, and shares of trajectories)",
        parts["quality"] + parts["quantity"],
    )
    (folder / f"{name}.md").write_text(text)
    (folder / f"{name}.json").write_text(
        json.dumps(
            {"size": size, "scale": scale, "results": sorted(results, key=lambda r: r["key"])},
            indent=1,
        )
        + "\n"
    )
    print(f"{folder / name}.md: {len(results)} of {expected} runs")
