"""Hold a solution of the limit against an ensemble of simulated runs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from ..checks import checked, fail, in_float64
from ..curves.jumps import plateaus_between
from ..curves.plateaus import Plateau
from ..files.results import Result
from ..limit.solution import Solution
from ..limit.spread import Spread
from ..problem.means import slow_in
from ..simulation import Ensemble
from .gaps import Gaps, curve_parts, deviations, measure_gaps
from .histogram import Histogram, weight_histogram
from .measured import Measured
from .pairs import PlateauPair, pair_plateaus
from .predicted import NOT_GAUSSIAN, curve_of, detectable_gap, each_time, noise_of, spread_of
from .same import check_same
from .verdict import LEVEL, POWER, Part, Verdict, judge, least_p

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Theory and simulation side by side; times are ``tau = steps / d``.

    Attributes
    ----------
    gaps : Gaps
        The gaps at the times that both have saved; `tau`, `gap` and `gap_in_standard_errors` are taken from it.
    plateaus_theory, plateaus_simulation : list of Plateau
        Of the predicted and of the mean simulated curve.
    pairs : list of PlateauPair
    histogram : Histogram or None
        None without a predicted density at the last time.
    judgement : Verdict
        The verdict over all of these (``docs/verdicts.md``); `verdict` is its sentence.
    spread, reason : Spread or None, str
        How far one run strays by the limit: standard errors and tests go by it; None where by the seeds, and why.
    """

    solution: Solution
    ensemble: Ensemble | Measured
    gaps: Gaps
    plateaus_theory: list[Plateau]
    plateaus_simulation: list[Plateau]
    pairs: list[PlateauPair]
    histogram: Histogram | None
    judgement: Verdict
    spread: Spread | None = None
    reason: str = ""

    @property
    def tau(self) -> Float[np.ndarray, " T"]:
        """Times that both have saved."""
        return self.gaps.tau

    @property
    def theory(self) -> Float[np.ndarray, " T"]:
        """Predicted error at these times."""
        return self.gaps.theory

    @property
    def gap(self) -> Float[np.ndarray, " T"]:
        """Mean simulated error - predicted error."""
        return self.gaps.mean

    @property
    def gap_in_standard_errors(self) -> Float[np.ndarray, " T"] | None:
        """The gap over the standard error of the mean of the seeds; None for a single seed without a `spread`."""
        return self.gaps.in_errors

    @property
    def relative_gap(self) -> tuple[float, float | None]:
        """The gap over the prediction, averaged over the curve, and its standard error; nan without common times."""
        if self.tau.size == 0:
            return float("nan"), None
        each = self.gaps.relative.mean(axis=1)
        return float(each.mean()), float(stats.sem(each)) if each.size > 1 else None

    @property
    def agreement(self) -> str:
        """``"agree"``, ``"differ"`` or ``"undecided"``."""
        return self.judgement.agreement

    @property
    def p_value(self) -> float | None:
        """p-value of curve, plateaus and histogram together, None where nothing could be tested."""
        return self.judgement.p_value

    @property
    def detectable_gap(self) -> float | None:
        """Smallest constant relative gap of the curve that is found with probability ``POWER``."""
        return self.judgement.detectable_gap

    def to_pandas(self) -> pd.DataFrame:
        """One row a time that both have saved: prediction, mean, gap; with several seeds its standard error."""
        import pandas as pd

        frame = {
            "tau": self.tau,
            "error_theory": self.theory,
            "error_mean": self.ensemble.error_mean[self.gaps.common],
            "gap": self.gap,
        }
        if self.gap_in_standard_errors is not None:
            frame["error_sem"] = self.gaps.sem
            frame["gap_in_standard_errors"] = self.gap_in_standard_errors
        return pd.DataFrame(frame)

    def to_dict(self) -> dict:
        """What `Solution.to_dict` and `Ensemble.to_dict` hold, at common times; gaps, plateaus and the verdict."""
        gaps, judged = self.gap_in_standard_errors, self.judgement
        record = self.solution.to_dict() | self.ensemble.to_dict()
        if self.tau.size != len(record["error"]) or self.tau.size != len(record["error_mean"]):
            names = [name for name in ("m", "q", "classification_error", "ptq_error") if name in record]
            curves = {name: getattr(self.solution, name) for name in names}
            record |= {
                name: np.interp(self.tau, self.solution.tau, curve).tolist() for name, curve in curves.items()
            }
            record |= {"tau": self.tau.tolist(), "error": self.theory.tolist()}
            for name in {
                "error_mean",
                "error_std",
                "classification_error_mean",
                "ptq_error_mean",
            } & record.keys():
                record[name] = np.asarray(record[name])[self.gaps.common].tolist()
        return record | {
            "gap": self.gap.tolist(),
            "gap_in_standard_errors": None if gaps is None else gaps.tolist(),
            "relative_gap": self.relative_gap[0],
            "relative_gap_sem": self.relative_gap[1],
            "plateaus_theory": [p.to_dict() for p in self.plateaus_theory],
            "plateaus_simulation": [p.to_dict() for p in self.plateaus_simulation],
            "histogram": None if self.histogram is None else self.histogram.to_dict(),
            "agreement": self.agreement,
            "error_bars": "seeds" if self.spread is None else "predicted",
            "p_value": self.p_value,
            "level": LEVEL,
            "detectable_gap": self.detectable_gap,
            "parts": {part.name: _part(part) for part in judged.parts},
            "differing": list(judged.differing),
            "verdict": self.verdict,
        }

    @property
    def verdict(self) -> str:
        """The verdict in words: level, parts with their p-values and degrees of freedom, detectable gap."""
        judged, reached, (mean, sem) = self.judgement, f"level {LEVEL:g}", self.relative_gap
        parts = "; ".join(str(part) for part in judged.parts if part.p_value is not None)
        if self.p_value is not None:
            reached = f"p = {self.p_value:.2g} for all parts together, {reached}"
        opening = {
            "agree": f"Theory and {self.ensemble.noun} agree ({reached})",
            "differ": f"Theory and {self.ensemble.noun} differ in {_listed(judged.differing)} ({reached})",
            "undecided": f"Undecided ({reached}): {judged.reason}",
        }[self.agreement]
        sentences = [f"{opening}.", *([f"{parts[0].upper()}{parts[1:]}."] if parts else []), *slow_in(self)]
        if self.tau.size:
            average = f"{mean:+.2%}" + ("" if sem is None else f" +- {sem:.2%}")
            sentences.append(f"The relative gap averages {average} over {self.tau.size} times.")
        if self.detectable_gap is not None:
            sentences.append(
                f"A constant relative gap of {self.detectable_gap:.2%} would have been found in {POWER:.0%} of such "
                "comparisons, a smaller one less often."
            )
        if self.spread is not None:
            exact = (
                "" if self.ensemble.noun == "simulation" else " (of an error without noise of test samples)"
            )
            sentences.append(
                f"Error bars are those that the limit predicts for d = {self.ensemble.dim}{exact}."
            )
        elif self.reason:
            sentences.append(f"Error bars are from the spread over the seeds ({self.reason}).")
        estimate = self.solution.error_estimate
        sentences.append(f"The claim of the law for its curve: {self.solution.claim}.")
        if self.agreement == "differ":
            if estimate is not None and abs(mean) <= float(estimate):
                sentences.append("The gap is no larger than that: solve with a smaller tol first.")
            sentences.append(
                "A finite-size bias shrinks with d: repeat with a larger dim to tell it from a fault."
            )
        return " ".join(sentences)

    def _summary(self) -> str:
        p = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        mean, sem = self.relative_gap
        average = f"{mean:+.2%}" + ("" if sem is None else f" +- {sem:.2%}")
        return f"{self.agreement}{p}, relative gap {average} over {self.tau.size} times, {self.ensemble.seeds} seeds"

    def _draw(self, ax) -> None:
        from ..drawing.axes import learning_curve

        learning_curve(ax, self.solution, self.ensemble)

    def __str__(self):
        frame = self.to_pandas()
        lines = []
        if len(frame):
            rows = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, 9).round().astype(int))]
            lines.append(rows.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
        z = self.gap_in_standard_errors
        if z is not None and z.size and np.all(np.isfinite(z)):
            worst = int(np.argmax(np.abs(z)))
            bound = stats.t.isf(LEVEL / (2 * z.size), np.inf if self.spread else self.ensemble.seeds - 1)
            lines.append(
                f"largest of all {z.size} gaps: {z[worst]:.2g} standard errors at tau = {self.tau[worst]:.4g}; "
                f"the largest of so many, for a right theory and {self.ensemble.seeds} seeds, is below {bound:.2g} in "
                f"at least {1 - LEVEL:.0%} of comparisons"
            )
        lines += [str(pair) for pair in self.pairs]
        if not self.pairs:
            lines.append(
                f"no plateau predicted to end, {len(self.plateaus_simulation)} in the mean curve of the "
                + self.ensemble.noun
            )
        if self.histogram is not None:
            lines.append(f"latent weights at tau = {self.ensemble.tau[-1]:g}: {self.histogram}")
        return "\n".join([*lines, self.verdict])


@checked(solution=Solution, ensemble=(Ensemble, Measured))
@in_float64
def compare(solution: Solution, ensemble: Ensemble | Measured) -> Comparison:
    """Compare a predicted curve with simulated or measured ones of one problem, at the times that both have saved.

    One verdict over curve, plateaus and histogram: of comparisons with a right theory at most the share ``LEVEL`` ends
    in "differ" (``docs/verdicts.md``). It goes by the spread that the limit predicts for runs of this width, where that
    is derived, so that one run suffices; by the spread over the seeds elsewhere. The error that the law claims for
    itself is named, not forgiven.

    Raises
    ------
    InputError
        If the two are of different problems, or if the simulation ends after the solution.
    """
    if isinstance(ensemble, Ensemble):
        check_same(solution, ensemble)
    horizon, seeds = float(solution.tau[-1]), ensemble.seeds
    if ensemble.tau[-1] > horizon * (1 + 1e-9) + 1.0 / ensemble.dim:
        fail(
            "ensemble",
            f"a {ensemble.noun} that ends by tau = {horizon:g}",
            float(ensemble.tau[-1]),
            "solve for a longer run",
        )
    gaps = measure_gaps(solution, ensemble)
    predicted, simulated = solution.plateaus(), []
    if np.all(np.isfinite(ensemble.error)) and np.all(ensemble.error_mean > 0):
        noise = ensemble.error_sem / np.maximum(ensemble.error_mean, 1e-300)
        begins, noise = solution.problem.begins, noise if seeds > 1 else None
        simulated = plateaus_between(ensemble.tau, ensemble.error_mean, begins, noise)
    spread, reason = spread_of(solution, ensemble)
    draws, noise = deviations(solution, ensemble), None
    known = 0 if draws is None else draws.shape[1]
    if spread is not None and gaps.tau.size and np.all(np.isfinite(gaps.mean)):
        noise = noise_of(spread, solution, gaps.solved, seeds, known)
    if noise is None and spread is not None:
        spread, reason = None, NOT_GAUSSIAN
    pairs = pair_plateaus(
        predicted, gaps.tau, gaps.theory, ensemble.error[:, gaps.common], ensemble.dim, spread
    )
    histogram = weight_histogram(solution, ensemble)
    others = []
    if tested := [pair.p_value for pair in pairs if pair.p_value is not None]:
        others.append(Part("plateaus", least_p(tested)))
    if histogram is not None and histogram.p_value is not None:
        others.append(Part("histogram", histogram.p_value, histogram.dof))
    if noise is None:
        curve, times, detectable = curve_parts(gaps, draws, seeds, 1 + len(others))
    else:
        mean = gaps.mean if draws is None else gaps.mean - noise.transfer[:, :known] @ draws.mean(axis=0)
        curve, detectable = curve_of(noise, mean), detectable_gap(noise, gaps.theory, 1 + len(others))
        times = each_time(noise, mean, gaps.in_errors)
        gaps = dataclasses.replace(gaps, sem=noise.sem(gaps.mean))
    judgement = judge([curve, *others], times, detectable)
    return Comparison(
        solution, ensemble, gaps, predicted, simulated, pairs, histogram, judgement, spread, reason
    )


def _part(part: Part) -> dict[str, Any]:
    found: dict[str, Any] = {"p_value": part.p_value, "dof": part.dof}
    return found | ({"reason": part.reason} if part.reason else {})


def _listed(names) -> str:
    return ", ".join(names[:-2] + (" and ".join(names[-2:]),))
