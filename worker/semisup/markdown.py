"""report.md and the adapter's model card, from the report's body alone."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from worker.semisup.data import Adapter
from worker.semisup.task import Task


def readable(body: Mapping[str, Any]) -> str:
    task = body["task"]
    parts = [
        "# Fine-tuning report",
        body["summary"],
        f"{task['labeled']} labeled, {task['unlabeled']} unlabeled, {task['validation']} validation rows, "
        f"{task['held_out']} held-out rows reported; "
        f"answer kind `{task['answer']}`; "
        f"profile `{body['profile']}`, seed {body['seed']}, base `{body['environment']['base']}`.",
        "## What decided",
        *_decided(body),
        "## Held-out accuracy",
        arms_table(body),
        "## Evolved minus each arm, on the same rows",
        _table(
            ("against", "points", "interval", "won / lost", "McNemar p"),
            [
                (
                    c["against"],
                    _points(c["difference"]),
                    _interval(c["interval"]),
                    f"{c['won']} / {c['lost']}",
                    f"{c['p_mcnemar']:.3f}",
                )
                for c in body["comparisons"]
            ],
        ),
        "## Rounds",
        *(_round(row) for row in body["rounds"]),
        "## Calibration: mean_nll against correctness",
        *(_calibration(name, rows) for name, rows in body["calibration"].items()),
        "## Cost",
        _table(
            ("stage", "seconds", "tokens"),
            [
                (name, f"{body['seconds'].get(name, 0):.1f}", str(body["tokens"].get(name, "")))
                for name in sorted(set(body["seconds"]) | set(body["tokens"]))
            ],
        ),
        "## Rows that two files share",
        _table(("files", "rows"), [(pair.replace("/", " and "), str(count)) for pair, count in body["shared_rows"].items()]),
        *(["## Notes", *(f"- {note}" for note in body["notes"])] if body["notes"] else []),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def arms_table(body: Mapping[str, Any]) -> str:
    return _table(
        ("arm", "accuracy %", "interval", "unparsed", "train steps"),
        [
            (
                a["title"],
                f"{100 * a['accuracy']:.1f}",
                _interval(a["interval"]),
                f"{a['unparsed']}/{a['n']}",
                str(a["train_steps"]),
            )
            for a in body["arms"]
        ],
    )


def model_card(task: Task, adapter: Adapter, body: Mapping[str, Any]) -> str:
    """The card beside the adapter: front matter as model hubs read it, the comparison, how to load it."""
    front = {
        "base_model": task.lab.name,
        "library_name": "peft" if adapter.kind == "lora" else "transformers",
        "tags": ["semi-supervised", "semievol", *(["lora"] if adapter.kind == "lora" else [])],
    }
    load = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'lm = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{task.lab.name}"), "adapter")'
        if adapter.kind == "lora"
        else 'from transformers import AutoModelForCausalLM\n\nlm = AutoModelForCausalLM.from_pretrained("adapter")'
    )
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# Adapter for `{task.lab.name}`\n\n{body['summary']}\n\n"
        f"{arms_table(body)}\n\n```python\n{load}\n```\n\nsha256 of the weights: `{adapter.sha256}`. "
        "Where every training example came from: `lineage.json`.\n"
    )


def _round(row: Mapping[str, Any]) -> str:
    consistency = "" if row["consistency_rate"] is None else f", {100 * row['consistency_rate']:.1f} % consistent"
    lines = [
        f"### Round {row['round']}",
        f"{row['pool']} in the pool{consistency}; {row['selected']} selected, {row['rejected']} rejected "
        f"({', '.join(f'{k}: {v}' for k, v in row['reasons'].items())}); held-out accuracy {100 * row['accuracy']:.1f} %"
        f"{_validated(row)}.",
        *_promised(row),
    ]
    if row.get("pseudo_label_accuracy"):
        known = row["pseudo_label_accuracy"]
        lines.append(
            _table(
                ("pseudo-labels", "n", "right %"),
                [(k, str(v["n"]), "" if v["accuracy"] is None else f"{100 * v['accuracy']:.1f}") for k, v in known.items()],
            )
        )
    if row["class_shares"]:
        shares = row["class_shares"]
        lines.append(
            _table(
                ("class", *(f"{kind} %" for kind in shares)),
                [(name, *(f"{100 * table[name]:.1f}" for table in shares.values())) for name in shares["labeled"]],
            )
        )
    lines += _reliability(row)
    return "\n\n".join(lines)


def _promised(row: Mapping[str, Any]) -> list[str]:
    """What the selector promises of its pseudo-labels, and what a reader must know about the selection."""
    lines, given = [], row["guarantee"]
    if given and given["certified"]:
        lines.append(
            f"Selected with a guarantee: pseudo-labels with mean_nll up to {given['threshold']:.4g} are right in at least "
            f"{100 * given['target']:g} % of cases, with confidence {100 * given['confidence']:g} % ({given['errors']} of the "
            f"{given['calibration_n']} calibration rows below it were wrong)."
        )
    return [*lines, row["note"]] if row["note"] else lines


def _validated(row: Mapping[str, Any]) -> str:
    found = row["validation"]
    return "" if not found else f", {100 * found['accuracy']:.1f} % of {found['n']} validation rows"


def _decided(body: Mapping[str, Any]) -> list[str]:
    """Who decided, on which rows, and what they said."""
    guard, lines = body["guard"], [body["guard"]["source"]["note"]]
    if guard["difference"] is not None:
        low_high = _interval(guard["interval"])
        lines.append(
            f"On these {guard['rows']} rows evolved has {100 * guard['evolved']:.1f} %, labels-only (early-stopped) "
            f"{100 * guard['labels_only']:.1f} %: {_points(guard['difference'])} points {low_high}, "
            f"{guard['won']} won, {guard['lost']} lost."
        )
    lines.append(
        f"`evaluation.keep` is `{guard['keep']}`; the result is `{guard['result']}` ({guard['reason'].replace('_', ' ')})."
    )
    return [*lines, *([body["stopping"]["note"]] if body["stopping"] else [])]


def _reliability(row: Mapping[str, Any]) -> list[str]:
    """What labeled rows say of the pseudo-labels of this round."""
    found = row["reliability"]
    if found is None:
        return [row["reliability_note"]]
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in found["weights"].items())
    mode = f"{found['folds']} folds" if found["mode"] == "cross_fit" else "held-out labels"
    true = found.get("true", {})
    return [
        f"{row['reliability_note']} Judged were {found['judged']} labeled rows ({mode}), {found['unparsed']} of them without a "
        f"readable answer. The cut: {found['selected']['rule']}." + (f" Weights in the pool: {weights}." if weights else ""),
        _table(
            ("pseudo-labels", "judged", "right %", f"at least ({100 * found['level']:g} %)", "true %"),
            [
                (name, str(found[name]["n"]), *(_percent(found[name][key]) for key in ("precision", "lower")), _percent(share))
                for name in ("overall", "selected")
                for share in (true.get(name, {}).get("accuracy"),)
            ],
        ),
        _table(
            ("confidence %", "right %", "n", "mean_nll (nats)"),
            [
                (
                    _percent(bin["confidence"]),
                    _percent(bin["accuracy"]),
                    str(bin["n"]),
                    f"{bin['mean_nll_from']:.4f} to {bin['mean_nll_to']:.4f}",
                )
                for bin in found["curve"]
            ],
        ),
        _table(
            ("votes that agree %", "right %", "n"),
            [(_percent(part["agreement"]), _percent(part["accuracy"]), str(part["n"])) for part in found["agreement"]],
        ),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _calibration(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    table = _table(
        ("mean_nll (nats)", "n", "right %"),
        [(f"{r['mean_nll_from']:.4f} to {r['mean_nll_to']:.4f}", str(r["n"]), f"{100 * r['accuracy']:.1f}") for r in rows],
    )
    return f"{name.replace('_', ' ')}:\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(pair: Sequence[float]) -> str:
    return f"[{100 * pair[0]:.1f}, {100 * pair[1]:.1f}]"
