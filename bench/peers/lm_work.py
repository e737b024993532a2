"""Language models in PyTorch (transformers, PEFT).

    lm_step:smol:2:512:bf16      a LoRA step: rank 16 on all linears, 2 rows of 512 tokens, AdamW on the adapters
    lm_prefill:qwen:512:bf16     a prompt of 512 tokens, the last one's logits, the cache filled
    lm_decode:qwen:64:32:bf16    32 tokens one by one, behind 64 others
"""
import torch

from common import Missing
from shapes import SHAPES

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def causal(shape, dtype):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if shape not in SHAPES:
        raise Missing
    s = SHAPES[shape]
    config, model = (Qwen2Config, Qwen2ForCausalLM) if s["arch"] == "qwen2" else (LlamaConfig, LlamaForCausalLM)
    torch.manual_seed(0)
    return model(config(
        hidden_size=s["hidden"], intermediate_size=s["mlp"], num_hidden_layers=s["layers"], vocab_size=s["vocab"],
        num_attention_heads=s["heads"], num_key_value_heads=s["kv"], rope_theta=s["base"], tie_word_embeddings=True,
        max_position_embeddings=8192, attn_implementation="sdpa")).to(TYPES[dtype])


def lm_step(wrap, shape, rows, length, dtype):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(causal(shape, dtype), LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    ids = torch.randint(0, SHAPES[shape]["vocab"], (int(rows), int(length)))
    forward = wrap(model)

    def step():
        optimizer.zero_grad(set_to_none=True)
        forward(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    return step


def lm_prefill(wrap, shape, length, dtype):
    model = causal(shape, dtype).eval()
    ids = torch.randint(0, SHAPES[shape]["vocab"], (1, int(length)))
    forward = wrap(model)

    @torch.no_grad()
    def prompt():
        forward(input_ids=ids, logits_to_keep=1, use_cache=True)

    return prompt


def lm_decode(wrap, shape, length, count, dtype):
    from transformers import DynamicCache

    model = causal(shape, dtype).eval()
    ids = torch.randint(0, SHAPES[shape]["vocab"], (1, int(length)))
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    forward = wrap(model)

    @torch.no_grad()
    def tokens():
        last = ids[:, :1]
        for _ in range(int(count)):
            last = forward(input_ids=last, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        cache.crop(-int(count))

    return tokens


WORK = {f.__name__: f for f in (lm_step, lm_prefill, lm_decode)}
