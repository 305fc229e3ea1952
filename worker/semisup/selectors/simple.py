"""Selectors of one line each: fixed threshold, agreement, everything, and the random control."""

import numpy as np

from worker.semisup.selectors.cut import Cut, Scores
from worker.semisup.spec import Agreement, KeepAll, RandomShare, Threshold


def threshold(scores: Scores, spec: Threshold, seed: int) -> Cut:
    return Cut(scores.mean_nll <= spec.max_mean_nll, spec.max_mean_nll, "above_threshold")


def agreement(scores: Scores, spec: Agreement, seed: int) -> Cut:
    return Cut(scores.agreement >= spec.min_agreement, None, "too_little_agreement")


def keep_all(scores: Scores, spec: KeepAll, seed: int) -> Cut:
    return Cut(np.ones(len(scores.mean_nll), bool), None, "none")


def random_share(scores: Scores, spec: RandomShare, seed: int) -> Cut:
    count = round(spec.share * len(scores.mean_nll))
    kept = np.zeros(len(scores.mean_nll), bool)
    kept[np.random.Generator(np.random.Philox(seed)).permutation(len(kept))[:count]] = True
    return Cut(kept, None, "not_drawn")
