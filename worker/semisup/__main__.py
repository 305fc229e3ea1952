"""A whole job on one machine, with no service: python -m worker.semisup spec.yaml labeled unlabeled out/

A run that was killed goes on where it was when the same command is given again.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from worker.semisup.errors import SemisupError
from worker.semisup.inputs import Source, load_inputs
from worker.semisup.job import run_job
from worker.semisup.keep import DirectoryKeep, file_sha256
from worker.semisup.lengths import check_responses
from worker.semisup.lm import Lab
from worker.semisup.outside import open_outside
from worker.semisup.spec import load_spec
from worker.semisup.start import answered_from_memory


def main() -> int:
    args = _arguments()
    opened = ExitStack()
    try:
        opened.enter_context(_temporary_folder())
        spec = load_spec(yaml.safe_load(args.spec.read_text(encoding="utf-8")) or {})
        sources = {"labeled": args.labeled, "unlabeled": args.unlabeled, "test": args.test, "validation": args.validation}
        files = {name: Source.at(path) for name, path in sources.items() if path}
        inputs = load_inputs(spec, files["labeled"], files.get("unlabeled"), files.get("test"), files.get("validation"))
        run: dict[str, Any] = {
            "spec": spec.model_dump(mode="json"),
            "lm": args.lm,
            "files": {name: file_sha256(source.path) for name, source in files.items()},
        }
        places = (yaml.safe_load(args.outside.read_text(encoding="utf-8")) or {}) if args.outside else {}
        outside = opened.enter_context(open_outside(places))
        if args.outside:
            run["outside"] = outside.identity
        keep = DirectoryKeep(args.out, run, chunk_size=spec.propagation.chunk_size, watch=_watch)
        lab = Lab(
            args.lm,
            name=args.lm_name or args.lm,
            cache=args.cache,
            device=args.device,
            threads=args.threads,
            tick=keep.tick,
            shelf=keep.shelf,
            outside=outside,
        )
        check_responses(lab, inputs, files["labeled"])
        learned, more = answered_from_memory(spec, inputs.split, outside)
        notes = [*inputs.notes, *more]
        outcome = run_job(
            spec, inputs.split, lab=lab, keep=keep, gold=inputs.gold, notes=notes, shared=inputs.shared, learned=learned
        )
    except (SemisupError, OSError) as error:
        hint = getattr(error, "hint", None)
        sys.stderr.write(f"\n{error}{f' {hint}' if hint else ''}\n")
        return 2
    finally:
        opened.close()
    shutil.copytree(outcome.artefacts.path, args.out / "results", dirs_exist_ok=True)
    sys.stderr.write("\n")
    sys.stdout.write((args.out / "results" / "report.md").read_text(encoding="utf-8"))
    return 0


@contextmanager
def _temporary_folder() -> Iterator[None]:
    """What stages are stored from lies in a folder of this run's own, and goes with it: each training leaves its weights."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="semift-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m worker.semisup", description=__doc__)
    parser.add_argument("spec", type=Path, help="the job's spec as YAML (an empty file means every default)")
    parser.add_argument("labeled", type=Path, help="JSONL, CSV, TSV or Parquet with answers")
    parser.add_argument("unlabeled", type=Path, help="the same without answers (answers found there go to the report only)")
    parser.add_argument("out", type=Path, help="folder for stages and results; give it again to go on")
    parser.add_argument("--test", type=Path, help="held-out rows with answers; default: a share of the labeled rows")
    parser.add_argument("--validation", type=Path, help="rows with answers that decide; default: a share of the held-out rows")
    parser.add_argument("--lm", default="bundled:3", help="folder of a causal LM, or bundled:N, bundled:N+reader")
    parser.add_argument("--lm-name", help="what the adapter calls its base; default: --lm")
    parser.add_argument(
        "--outside", type=Path, help="YAML: LMs, adapters and engines that collaborators name (docs/engines.md)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".semift/lms"), help="where the bundled LM is built")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all (another count gives other last bits)")
    return parser.parse_args()


def _watch(stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
    loss = f"  loss {metrics['loss']:.3f}" if "loss" in metrics else ""
    sys.stderr.write(f"\r{stage:<34} {step}/{total}{loss}    ")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
