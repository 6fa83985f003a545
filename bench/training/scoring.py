"""AlgoPerf's score: steps to a target, performance profiles, and a paired test.

Times are arrays; infinite where a target was not reached. All functions are pure.

Protocol: AlgoPerf's documentation (mlcommons/algorithmic-efficiency, docs/DOCUMENTATION.md).
"""

import numpy as np

LIMIT = 4.0  # the profile is integrated up to this ratio; also that of the held-out rule


def steps_to_target(curve, steps, target):
    """Return the first step of a report whose metric is at most the target, or infinity.

    Args:
      curve: the metric at each report, less is better; NaN never reaches a target.
      steps: the step of each report.
      target: of the workload.
    """
    reached = np.flatnonzero(np.asarray(curve, float) <= target)
    return float(steps[reached[0]]) if reached.size else np.inf


def time_of_method(times):
    """Return the median over studies of the best of each study's trials.

    Args:
      times: (studies, trials).
    """
    return float(np.median(np.min(np.asarray(times, float), 1)))


def after_held_out_rule(times, held_out, limit=LIMIT):
    """Return times in which a method that fails a variant has infinity on its base workload.

    A method fails if it does not reach the variant's target, or takes more than `limit` times as
    long as the fastest method there.

    Args:
      times: method -> workload -> time.
      held_out: the same for the variants; a workload that is missing is not checked.
      limit: the factor.
    """
    fastest = {}
    for by_workload in held_out.values():
        for workload, time in by_workload.items():
            fastest[workload] = min(time, fastest.get(workload, np.inf))
    out = {}
    for method, by_workload in times.items():
        out[method] = {}
        for workload, time in by_workload.items():
            variant = held_out.get(method, {}).get(workload, 0.0)
            fails = not variant < np.inf or variant > limit * fastest.get(workload, np.inf)
            out[method][workload] = np.inf if fails else time
    return out


def ratios(times):
    """Return method -> (workloads,): times divided by that of the fastest method."""
    table = np.array([list(by_workload.values()) for by_workload in times.values()], float)
    fastest = table.min(0)
    with np.errstate(invalid="ignore"):
        table = np.where(np.isfinite(table), table / fastest, np.inf)
    return dict(zip(times, table))


def profile_score(ratio, limit=LIMIT):
    """Return the area under a performance profile for ratios in [1, limit], of at most 1."""
    return float(np.mean(np.clip(limit - np.asarray(ratio, float), 0, limit - 1)) / (limit - 1))


def scores(times, limit=LIMIT):
    """Return method -> score."""
    return {method: profile_score(r, limit) for method, r in ratios(times).items()}


def paired_test(times, reference, budget, reference_budget=None, draws=10000, seed=0):
    """Compare a method with a reference over pairs, workloads x studies.

    A time that is infinite is censored: the target was not reached within the budget. It counts as
    `budget`, so that a ratio with one is a bound, and a pair with two is a tie.

    Args:
      times: (workloads, studies), those of the method.
      reference: (workloads, studies), those of the reference.
      budget: (workloads,), the steps that were allowed.
      reference_budget: those of the reference; None is `budget`.
      draws: of the bootstrap, which draws workloads, and of each of them studies.
      seed: of the bootstrap.

    Returns:
      A dict: "speedup", the geometric mean of reference / method; "low" and "high", the 95 %
      interval of it by a bootstrap; "p", of Wilcoxon's signed-rank test of the logarithms, both
      sides; "pairs", those that differ.
    """
    from scipy.stats import wilcoxon

    limits = budget if reference_budget is None else reference_budget, budget
    limits = (np.asarray(limit, float)[:, None] for limit in limits)
    logs = np.subtract(*map(np.log, map(np.minimum, (reference, times), limits)))
    random = np.random.default_rng(seed)
    rows = random.integers(len(logs), size=(draws, len(logs)))
    columns = random.integers(logs.shape[1], size=(draws, len(logs), logs.shape[1]))
    means = logs[rows[:, :, None], columns].mean((1, 2))
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    different = logs[logs != 0]
    p = float(wilcoxon(different).pvalue) if different.size else 1.0
    speedup = float(np.exp(logs.mean()))
    return dict(speedup=speedup, low=float(low), high=float(high), p=p, pairs=different.size)
