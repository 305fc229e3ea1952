"""Records as grids by arm: what the statistics and the table look at. Pieces that failed are not in any grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from benchmarks.quality import stats
from benchmarks.quality.results import Record

Key = tuple[str, int]  # (task, seed)


@dataclass(frozen=True)
class Grids:
    records: Sequence[Record]

    @cached_property
    def good(self) -> list[Record]:
        return [record for record in self.records if "error" not in record]

    @cached_property
    def failed(self) -> list[Record]:
        return [record for record in self.records if "error" in record]

    @cached_property
    def roles(self) -> dict[str, str]:
        return dict(self.records[-1]["roles"])

    @cached_property
    def arms(self) -> dict[str, Record]:
        """The newest record of each arm, for its title and group, in the order of the arms file.

        An arm that came into the file later has the place of one that was moved down by it: newer ones stand first.
        """
        newest = {record["arm"]: record for record in sorted(self.records, key=lambda record: record["date"])}
        latest_first = sorted(newest.items(), key=lambda item: item[1]["date"], reverse=True)
        return dict(sorted(latest_first, key=lambda item: item[1]["place"]))

    @cached_property
    def tasks(self) -> dict[str, str]:
        return dict(sorted({record["task"]: record["task_title"] for record in self.records}.items()))

    @cached_property
    def datasets(self) -> dict[str, str]:
        """The data set that each task is drawn from."""
        return {record["task"]: record["dataset"] for record in self.records}

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({record["seed"] for record in self.records})

    @cached_property
    def accuracy(self) -> dict[str, dict[Key, float]]:
        return self._grid("accuracy")

    @cached_property
    def validation(self) -> dict[str, dict[Key, float]]:
        return self._grid("validation_accuracy")

    @cached_property
    def bits(self) -> dict[str, dict[Key, str]]:
        found: dict[str, dict[Key, str]] = {}
        for record in self.good:
            found.setdefault(record["arm"], {})[record["task"], record["seed"]] = record["correct"]
        return found

    @property
    def ours(self) -> dict[Key, float]:
        return self.accuracy.get(self.roles["ours"], {})

    @property
    def control(self) -> dict[Key, float]:
        return self.accuracy.get(self.roles["control"], {})

    @property
    def ceiling(self) -> dict[Key, float]:
        return self.accuracy.get(self.roles["ceiling"], {})

    @property
    def ablations(self) -> list[str]:
        """Also those of which every piece failed."""
        return [name for name, record in self.arms.items() if record["group"] == "ablation"]

    def guarded(self, arm: str | None = None) -> tuple[dict[Key, float], int]:
        """`stats.after_guard` for an arm (default: ours) against the control."""
        name, control = arm or self.roles["ours"], self.roles["control"]
        return stats.after_guard(
            self.accuracy.get(name, {}), self.control, self.validation.get(name, {}), self.validation.get(control, {})
        )

    def round(self, number: int) -> dict[Key, float]:
        """Accuracy after that round, of the pieces whose arm is the curve over rounds."""
        return {
            (record["task"], record["seed"]): 100 * record["rounds"][number - 1]["accuracy"]
            for record in self._curve()
            if len(record["rounds"]) >= number
        }

    def second_round(self) -> tuple[dict[Key, float], dict[Key, float]]:
        """Points that the second round gained: as it is, and as a job takes it (where validation rows like it better).

        A (task, seed) that was run several times, once for two rounds and once for four, counts with the mean of its runs:
        which of them is looked at must not decide.
        """
        plain: dict[Key, list[float]] = {}
        chosen: dict[Key, list[float]] = {}
        for record in self._rounds():
            if len(record["rounds"]) < 2 or any(r["validation_accuracy"] is None for r in record["rounds"][:2]):
                continue
            first, second = record["rounds"][:2]
            gain = round(100 * (second["accuracy"] - first["accuracy"]), stats.DECIMALS)
            taken = second["validation_accuracy"] > first["validation_accuracy"]
            plain.setdefault((record["task"], record["seed"]), []).append(gain)
            chosen.setdefault((record["task"], record["seed"]), []).append(gain if taken else 0.0)
        return {key: fmean(gains) for key, gains in plain.items()}, {key: fmean(gains) for key, gains in chosen.items()}

    def _rounds(self) -> list[Record]:
        return [record for record in self.good if record["group"] == "rounds"]

    def _curve(self) -> list[Record]:
        """One record of each (task, seed): of curves of several lengths the longest."""
        longest = {(r["task"], r["seed"]): r for r in sorted(self._rounds(), key=lambda record: len(record["rounds"]))}
        return list(longest.values())

    def _grid(self, field: str) -> dict[str, dict[Key, float]]:
        """In percent."""
        found: dict[str, dict[Key, float]] = {}
        for record in self.good:
            if record[field] is not None:
                found.setdefault(record["arm"], {})[record["task"], record["seed"]] = 100 * record[field]
        return found
