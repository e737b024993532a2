#!/usr/bin/env python3
"""Greedy text of a model against transformers on the same (dequantized) weights, in f32.

    tools/compare_greedy.py MODEL.gguf|FOLDER [--convert] [--command build/metal-candle] [--tokens 64]

With --convert, transformers reads the folder that `metal-candle convert` makes of the file, its tokenizer and
generation_config.json included, and the chat template must say the same on both sides. Twenty prompts. A first difference is allowed only where transformers' two largest logits are closer than 1e-4. Needs
torch, transformers and gguf; says what it found and exits 1 if anything differs that may not.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = [
    "The capital of France is", "Once upon a time, in a small village", "def fibonacci(n):", "Water boils at",
    "The three primary colors are", "In 1969, humans first", "To make a cup of tea, you",
    "The largest planet in the solar system", "Dear Sir or Madam,", "Photosynthesis is the process by which",
    "Q: What is 12 times 12?\nA:", "import numpy as np\n", "The opposite of hot is", "My favourite book is about",
    "A list of fruits: apple, banana,", "When the rain stopped,", "The mitochondria is", "She opened the door and",
    "In machine learning, overfitting", "The recipe calls for two cups of",
]


def ours(command, model, count):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as rows:
        for prompt in PROMPTS:
            rows.write(json.dumps({"prompt": prompt}) + "\n")
        rows.flush()
        out = subprocess.run([command, "generate", "--model", model, "--prompts", rows.name, "--max-tokens", str(count),
                              "--ignore-eos", "--temperature", "0", "--dtype", "f32", "--json"],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
    events = [json.loads(line) for line in out.splitlines()]
    return [e for e in events if e["event"] == "result"]


def reference(path):
    """transformers' model and tokenizer of a folder or a GGUF file."""
    folder, more = (str(path), {}) if path.is_dir() else (str(path.parent), {"gguf_file": path.name})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more).eval()
    return model, AutoTokenizer.from_pretrained(folder, **more)


def same_chat(command, model, tokenizer):
    """Whether --chat makes the tokens that transformers makes."""
    out = subprocess.run([command, "generate", "--model", model, "--chat", "--prompt", "Name a colour.", "--max-tokens", "1",
                          "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    mine = [e for e in map(json.loads, out.splitlines()) if e["event"] == "result"][0]["prompt_tokens"]
    theirs = tokenizer.apply_chat_template([{"role": "user", "content": "Name a colour."}], add_generation_prompt=True,
                                           return_dict=True)["input_ids"]
    print(f"chat template: {'the same tokens' if mine == theirs else f'ours {mine}, theirs {theirs}'}")
    return mine == theirs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--command", default="build/metal-candle")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--convert", action="store_true")
    args = parser.parse_args()
    results = ours(args.command, str(args.model), args.tokens)
    same, worst, bad = 0, 0.0, 0
    if args.convert:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "converted"
            subprocess.run([args.command, "convert", "--model", str(args.model), "--output", str(output), "--dtype", "f32",
                            "--quiet"], check=True)
            model, tokenizer = reference(output)
            print(f"end tokens: {model.generation_config.eos_token_id}, tokenizer {type(tokenizer).__name__}")
            bad += not same_chat(args.command, str(output), tokenizer)
    else:
        model, tokenizer = reference(args.model)
    for prompt, result in zip(PROMPTS, results):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            made = model.generate(ids, max_new_tokens=args.tokens, do_sample=False, eos_token_id=None,
                                  return_dict_in_generate=True, output_logits=True)
        tokens = made.sequences[0, ids.shape[1]:].tolist()
        for i, (mine, theirs) in enumerate(zip(result["tokens"], tokens)):
            logits = made.logits[i][0].double()
            if mine != theirs:
                two = torch.topk(logits, 2).values
                bad += two[0] - two[1] >= 1e-4
                print(f"{prompt!r}: token {i} is {mine}, theirs {theirs}; their two best differ by {two[0] - two[1]:.2e}")
                break
            worst = max(worst, abs(torch.log_softmax(logits, -1)[theirs].item() - result["logprobs"][i]))
        else:
            same += 1
    print(f"{same} of {len(PROMPTS)} the same for {args.tokens} tokens; log-probabilities differ by at most {worst:.1e}")
    raise SystemExit(1 if bad else 0)


main()
