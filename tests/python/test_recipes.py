"""Every recipe in `pipelines/`, run on a corpus of `data/`, against its paper's method in numpy."""

import numpy as np

import oracle
import test_recipes_pairs  # its recipes count as checked
from draws import chance
from oracle import REPOSITORY, check, close, equal
from recipes import RECIPES, hopper, members, model, recipe, sigmoid, steps, to_go

# Recipes that are checked in test_ssorl.py, or stage by stage in test_label.py and test_stages.py.
# Other modules check these.
ELSEWHERE = {
    "quickstart",
    "relative_actions",
    "relative_chunks",
    "ssorl",
    "ssorl_compat",
    "ssorl_decoupled",
    "ssorl_self_training",
}


def test_every_recipe_is_checked():
    names = {path.stem for path in (REPOSITORY / "pipelines").glob("*.yaml")}
    equal(sorted(names - ELSEWHERE), sorted(RECIPES), "recipes")


# ---- scores, filters, weights


@recipe("vgdf", model=True)
def test_vgdf_keeps_the_likeliest_quarter_of_all_steps(made):
    likelihood = {}
    for id, own in hopper().items():
        s, a, r, s_next = steps(own)
        y = model("vgdf", s=s, a=a, r=r, s_next=s_next, done=own["terminated"][: own["n"]])
        src, mean, std = (y[name][:, 0] for name in ("y_src", "y_mean", "y_std"))
        likelihood[id] = -0.5 * ((src - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    everything = np.sort(np.concatenate(list(likelihood.values())))
    threshold = np.quantile(everything, 0.75, method="inverted_cdf")
    kept = sum(own["n"] for own in made)
    check(
        abs(kept - len(everything) // 4) <= 1,
        f"vgdf: a quarter of {len(everything)} steps is kept, not {kept}",
    )
    close(
        made.facts("filter")[0]["quantiles"]["above"], threshold, "vgdf: the threshold", rtol=1e-3
    )
    for own in made:
        start, n = int(own["of"]["parent_step"]), own["n"]
        wanted = likelihood[int(own["of"]["parent_id"])][start : start + n]
        check((wanted > threshold - 1e-2 * abs(threshold)).all(), "vgdf: what is kept is likely")
        close(own["log_likelihood"][:n], wanted, "vgdf: log-likelihoods", rtol=2e-2, atol=2e-2)
        close(
            own["observation"][:n],
            hopper()[int(own["of"]["parent_id"])]["observation"][start : start + n],
            "vgdf: observations",
        )


@recipe("hindsight_prior", model=True)
def test_hindsight_priors_redistribute_rewards_by_importance(made):
    seen = 0
    for own in made:
        s, a, r, _ = steps(hopper()[own["id"]])
        starts = np.arange(0, len(r) - 19, 20)
        equal(own["start"], starts, "hindsight prior: windows do not overlap")
        at = starts[:, None] + np.arange(20)
        wanted = model("hindsight", s=s[at], a=a[at])
        close(own["rewards"], r[at], "hindsight prior: rewards")
        close(
            own["importance"].sum(1),
            np.ones(len(starts)),
            "hindsight prior: importance adds up to one",
            atol=1e-4,
        )
        for name in ("importance", "predicted"):
            close(own[name], wanted[name], f"hindsight prior: {name}", atol=1e-4, rtol=1e-3)
        close(
            own["redistributed"],
            own["importance"] * own["predicted"].sum(1, keepdims=True),
            "hindsight prior: r* = alpha · sum",
            atol=1e-3,
            rtol=1e-3,
        )
        seen += len(starts)
    equal(
        seen,
        sum(own["n"] // 20 for own in hopper().values()),
        "hindsight prior: no window is missing",
    )


@recipe("reward_relabelling", model=True)
def test_reward_relabelling_takes_the_mean_of_an_ensemble(made):
    for own in made:
        n, each = own["n"], members(hopper()[own["id"]])
        close(
            own["reward"][:n],
            each.mean(1),
            "reward relabelling: the mean of the members",
            atol=1e-4,
            rtol=1e-4,
        )
        close(
            own["reward_std"][:n],
            each.std(1),
            "reward relabelling: their spread",
            atol=1e-4,
            rtol=1e-3,
        )
        close(
            own["env_reward"],
            hopper()[own["id"]]["reward"],
            "reward relabelling: the environment's reward stays",
        )
        close(
            own["of"]["return"],
            own["reward"][:n].astype(np.float64).sum(),
            "reward relabelling: the return is the new one's",
        )
    equal(len(made), len(hopper()), "reward relabelling: all trajectories")


@recipe("advantage_weights", model=True)
def test_advantages_become_bounded_weights(made):
    for own in made:
        n, before = own["n"], hopper()[own["id"]]
        value = model("value", s=before["observation"])["value"][:, 0]
        after = np.where(before["terminated"][:n], 0, value[1 : n + 1])
        advantage = before["reward"][:n] + 0.99 * after - value[:n]
        close(own["advantage"][:n], advantage, "advantages", atol=2e-3, rtol=1e-3)
        close(
            own["weight"][:n],
            np.minimum(np.exp(advantage / 10), 20),
            "weights",
            atol=1e-2,
            rtol=2e-3,
        )


@recipe("morec", model=True)
def test_morec_cuts_trajectories_at_their_first_violation(made):
    left = {own["id"]: own for own in made}
    for id, own in hopper().items():
        s, a, _, s_next = steps(own)
        reward = model("dynamics_reward", s=s, a=a, s_next=s_next)["reward"][:, 0]
        bad = np.flatnonzero(reward < 0.6)
        n = bad[0] if len(bad) else own["n"]
        if n < 5:
            check(id not in left, f"morec: trajectory {id} is too short")
            continue
        equal(
            (left[id]["n"], len(left[id]["step"])),
            (n, n + 1),
            f"morec: trajectory {id} ends at its first violation",
        )
        close(left[id]["observation"], own["observation"][: n + 1], "morec: observations")
        close(
            left[id]["dynamics_reward"][:n],
            reward[:n],
            "morec: rewards of dynamics",
            atol=1e-3,
            rtol=1e-3,
        )


@recipe("best_of_n", model=True)
def test_best_of_n_keeps_one_of_every_group(made):
    scores = {}
    for id, own in hopper().items():
        s, a, _, s_next = steps(own)
        scores[id] = model("dynamics_reward", s=s, a=a, s_next=s_next)["reward"].mean()
    best = [
        max((id for id in hopper() if id // 4 == group), key=lambda id: scores[id])
        for group in range(50)
    ]
    equal([own["id"] for own in made], best, "best of n: one of every group")
    close(
        [own["of"]["score"] for own in made],
        [scores[id] for id in best],
        "best of n: scores",
        rtol=1e-3,
    )


@recipe("spo", model=True)
def test_spo_compares_trajectories_within_groups(made):
    scores = {id: members(own).mean() for id, own in hopper().items()}
    for own in made:
        others = [id for id in hopper() if id // 4 == own["id"] // 4 and id != own["id"]]
        wanted = np.mean([sigmoid(5 * (scores[own["id"]] - scores[other])) for other in others])
        close(own["of"]["win_rate"], wanted, "spo: win rates", atol=1e-4)
    close(
        sum(own["of"]["win_rate"] for own in made),
        len(hopper()) / 2,
        "spo: somebody wins wherever another loses",
        rtol=1e-6,
    )


@recipe("behaviour_reweighting")
def test_behaviour_reweighting_draws_newer_policies_more_often(made):
    policy = np.array([int(own["infos/policy"][0]) for own in hopper().values()])
    weights = np.array([1.0, 2.0, 4.0, 8.0])[policy]
    ends, ids = np.cumsum(weights), np.array(list(hopper()))
    points = [chance("subsample with replacement", 3, number) * ends[-1] for number in range(300)]
    drawn = ids[np.searchsorted(ends, points, side="right")]
    equal(
        sorted(own["id"] % 200 for own in made),
        sorted(drawn),
        "behaviour re-weighting: what is drawn",
    )
    equal(
        len({own["id"] for own in made}),
        300,
        "behaviour re-weighting: copies have ids of their own",
    )
    share = np.mean(policy[np.searchsorted(ids, drawn)] == 3)
    check(
        abs(share - weights[policy == 3].sum() / ends[-1]) < 0.12,
        f"behaviour re-weighting: the newest policy makes up {share:.2f}",
    )


# ---- windows


def windowed(values, starts, length):
    """[windows, length · width] with zeros where there is no step."""
    at = np.asarray(starts)[:, None] + np.arange(length)
    out = (
        values[np.clip(at, 0, len(values) - 1)].astype(np.float64).reshape(len(starts), length, -1)
    )
    out[(at < 0) | (at >= len(values))] = 0
    return out.reshape(len(starts), -1)


@recipe("oppo", model=True)
def test_oppo_embeds_windows_with_all_reward_at_the_end(made):
    for own in made:
        s, a, r, _ = steps(hopper()[own["id"]])
        starts = np.arange(len(r) - 19)
        delayed = np.where(np.arange(len(r)) == len(r) - 1, r.sum(), 0)
        equal(own["start"], starts, "oppo: windows")
        close(own["observation"], windowed(s, starts, 20), "oppo: observations")
        close(
            own["delayed"], windowed(delayed, starts, 20), "oppo: all reward at the end", rtol=1e-5
        )
        close(
            own["z"],
            model("encoder", s=windowed(s, starts, 20), a=windowed(a, starts, 20))["z"],
            "oppo: embeddings",
            atol=1e-4,
        )
    equal(
        sum(len(own["step"]) for own in made),
        sum(max(own["n"] - 19, 0) for own in hopper().values()),
        "oppo: no window is missing",
    )


@recipe("decision_diffuser")
def test_decision_diffuser_conditions_windows_of_normalised_observations(made):
    rows = oracle.corpus("hopper").steps["observation"]
    mean, std = rows.mean(0), rows.std(0)
    for own in made:
        before = hopper()[own["id"]]
        s, a, r, _ = steps(before)
        starts = np.arange(0, len(r), 4)
        condition = to_go(r - 100 * before["terminated"][: len(r)], 0.99) / 400
        close(
            own["observation"],
            windowed((s - mean) / (std + 1e-6), starts, 32),
            "decision diffuser: normalised observations",
            atol=1e-4,
        )
        close(own["action"], windowed(a, starts, 32), "decision diffuser: actions")
        close(
            own["condition"],
            windowed(condition, starts, 32),
            "decision diffuser: conditions",
            rtol=1e-5,
        )
        close(
            own["mask"].sum(1),
            np.minimum(32, len(r) - starts),
            "decision diffuser: padding is told",
        )
    equal(len(made), 200, "decision diffuser: all trajectories")


@recipe("decision_pretraining")
def test_decision_pretraining_pads_windows_and_bins_actions(made):
    for own in made:
        s, a, r, _ = steps(hopper()[own["id"]])
        starts = np.arange(0, len(r), 5) - 19
        close(own["observation"], windowed(s, starts, 20), "pre-training: observations")
        close(
            own["return_to_go"],
            windowed(to_go(r, 1), starts, 20),
            "pre-training: returns to go",
            rtol=1e-5,
        )
        close(own["time"], windowed(np.arange(len(r)), starts, 20), "pre-training: time steps")
        bins = np.minimum(np.floor((a.astype(np.float32) + 1) / 2 * 256), 255)
        for dimension in range(3):
            close(
                own[f"bin_{dimension + 1}"],
                windowed(bins[:, dimension], starts, 20),
                "pre-training: bins",
            )
    check(
        all(
            0 <= made.steps[f"bin_{d}"].min() and made.steps[f"bin_{d}"].max() <= 255
            for d in (1, 2, 3)
        ),
        "pre-training: 256 bins",
    )


# ---- scans


@recipe("stock_augmentation")
def test_stock_and_return_to_go_stay_together(made):
    for own in made:
        _, _, r, _ = steps(own)
        stock = [-100.0]
        for reward in r[: len(own["step"]) - 1]:
            stock.append((stock[-1] + reward) / 0.997)
        close(own["stock"], stock, "stocks", rtol=1e-9)
        n = own["n"]
        whole = 0.997 ** np.arange(n) * (own["stock"][:n] + own["return_to_go"][:n])
        close(
            whole,
            np.full(n, -100 + to_go(r, 0.997)[0]),
            "stock and return to go stay together",
            rtol=1e-6,
            atol=1e-6,
        )


@recipe("return_distribution")
def test_return_distributions_are_two_hot(made):
    atoms = np.linspace(0, 300, 51)
    for own in made:
        returns = np.clip(to_go(steps(own)[2], 0.99), 0, 300)
        # Two-hot: the share of an atom falls with its distance from the return.
        wanted = np.clip(1 - np.abs(returns[:, None] - atoms) / 6, 0, 1)
        close(own["distribution"][: own["n"]], wanted, "return distributions", atol=1e-6)
    equal(own["distribution"].shape[1], 51, "51 atoms")


@recipe("discounts")
def test_discounts_mappings_and_channels_are_those_of_numpy(made):
    for own in made:
        _, a, r, _ = steps(own)
        n, low, high, t = own["n"], 0.95, 0.99, np.arange(own["n"])
        close(
            own["returns"][:n],
            np.stack([to_go(r, low), to_go(r, high)], 1),
            "discounts: two at once",
            rtol=1e-9,
        )
        log = lambda x: np.log(x + low**100) - np.log(low**100)
        close(
            own["log_gain"][:n],
            log(to_go(np.maximum(r, 0), low)),
            "discounts: logarithmic gains",
            rtol=1e-6,
        )
        close(
            own["log_loss"][:n],
            log(to_go(np.maximum(-r, 0), low)),
            "discounts: logarithmic losses",
            rtol=1e-6,
        )
        effort = -(a.astype(np.float64) ** 2).sum(1)
        close(own["effort"][:n], effort, "discounts: effort", atol=1e-5)
        close(
            own["aggregate"][:n],
            low**t * to_go(r, low) + high**t * to_go(effort, high),
            "discounts: aggregate",
            rtol=1e-5,
            atol=1e-4,
        )
        close(
            own["utility"][:n],
            (1 - np.exp(-0.01 * to_go(r, high))) / 0.01,
            "discounts: exponential utility",
            rtol=1e-6,
        )


# ---- labels


@recipe("action_chunks", model=True)
def test_action_chunks_are_averaged_where_they_overlap(made):
    labelled = [own for own in made if own["of"]["split"] == "labelled"]
    equal(len(labelled), 20, "action chunks: a tenth keeps its actions")
    for own in made:
        n, before = own["n"], hopper()[own["id"]]
        if own["of"]["split"] == "labelled":
            close(own["action"], before["action"], "action chunks: recorded actions stay")
            continue
        known = before["observation"]
        later = known[np.minimum(np.arange(n) + 4, len(known) - 1)]
        chunks = model("chunks", x=known[:n], x_later=later)["action"]
        for t in range(n):
            votes = [chunks[start, t - start] for start in range(max(0, t - 3), t + 1)]
            if t < 6 or t > n - 4 or t % 50 == 0:
                close(
                    own["action"][t],
                    np.clip(np.mean(votes, 0), -1, 1),
                    f"action chunks: trajectory {own['id']} step {t}",
                    atol=1e-5,
                )
                equal(own["action_votes"][t], len(votes), "action chunks: votes")
        close(own["true_action"], before["action"], "action chunks: hidden actions are kept")
