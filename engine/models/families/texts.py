"""How texts become what networks attend to, for the families that read them with more than CLIP's last layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from engine.diffusion import prompt


def clip_penultimate(text_encoder: Any, tokenizer: Any, texts: Sequence[str], device: Any, length: int | None = None
                     ) -> tuple[Tensor, Tensor]:
    """-> (b, tokens, d) hidden states before the last layer, and (b, p) the projected embedding of the end token.

    length : tokens; None: the tokenizer's own. A text encoder without projection gives its pooled state instead.
    """
    ids = prompt.token_ids(tokenizer, texts, device, length)
    out = text_encoder(input_ids=ids, output_hidden_states=True)
    pooled = out.text_embeds if getattr(out, "text_embeds", None) is not None else out.pooler_output
    return out.hidden_states[-2], pooled


def t5_states(text_encoder: Any, tokenizer: Any, texts: Sequence[str], device: Any, length: int, masked: bool = True
              ) -> tuple[Tensor, Tensor]:
    """-> (b, length, d) T5's last hidden states and (b, length) the attention mask, 1 where a token counts.

    masked : whether padding is hidden from the encoder too (PixArt, DeepFloyd IF); Stable Diffusion 3 lets it see it
    """
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids, mask = made.input_ids.to(device), made.attention_mask.to(device)
    told = {"attention_mask": mask} if masked else {}
    return text_encoder(input_ids=ids, **told).last_hidden_state, mask


def plain(texts: Sequence[str]) -> list[str]:
    """Lower case without white space around, as T5's families were trained on."""
    return [text.lower().strip() for text in texts]


def cut_off(tokenizer: Any, text: str, length: int) -> str:
    """What of a text lies beyond ``length`` tokens and is not seen; "" when all is seen."""
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(ids) <= length:
        return ""
    end = tokenizer.num_special_tokens_to_add() // 2 if tokenizer.num_special_tokens_to_add() > 1 else 1
    return str(tokenizer.decode(ids[length - end:], skip_special_tokens=True)).strip()
