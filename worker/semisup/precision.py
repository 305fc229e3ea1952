"""bfloat16: where it is native, and what makes a training under its autocast fast. Measured in docs/LOG.md."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32_ATTENTION = "float32_sdpa"


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is native there and faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told = Path("/proc/cpuinfo")
    return device.type == "cpu" and told.is_file() and fast_bf16(told.read_text(errors="replace"))


def fast_bf16(cpuinfo: str) -> bool:
    """By the text of /proc/cpuinfo: AMX, or AMD's AVX-512. Intel's AVX-512 alone took 1.5 to 1.9 times float32's time."""
    return "amx_bf16" in cpuinfo or ("avx512_bf16" in cpuinfo and "AuthenticAMD" in cpuinfo)


def suit_bf16(network: Any) -> None:
    """Make `network` ready to be trained under bf16 autocast."""
    _round_frozen(network)
    if next(network.parameters()).device.type == "cpu":
        base = getattr(network, "get_base_model", lambda: network)()
        if base.config._attn_implementation == "sdpa":
            base.set_attn_implementation(FLOAT32_ATTENTION)


def _round_frozen(network: Any) -> None:
    """Keep the frozen matrices in bfloat16, to which autocast would round them anew in every step; no result changes.

    A head tied to the embeddings stays as it is: embeddings are looked up, not multiplied.
    """
    looked_up = {id(m.weight) for m in network.modules() if isinstance(m, torch.nn.Embedding)}
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad and id(module.weight) not in looked_up:
            module.to(torch.bfloat16)


def _float32_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention proper in float32, for CPUs: torch's fused bfloat16 kernel is several times slower backward."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        out, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return out.to(query.dtype), None


AttentionInterface.register(FLOAT32_ATTENTION, _float32_attention)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)
