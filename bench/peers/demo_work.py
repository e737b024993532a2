"""The demo's training in PyTorch with PEFT: demo:f32:30:60 trains 30 steps of 8 rows and scores the rows held out; if
fewer than 60 are right it goes on, ten steps at a time at a tenth of the rate, until they are or it is twice as long.

The rows are examples/commands, in order; loss on the answers; LoRA of rank 16 on all linear layers, AdamW, a linear
schedule after two steps of warm-up and a clipped gradient: what examples/demo.cpp does. Returns the seconds of the
steps, the tokens in them without padding, and the score. The model is METAL_CANDLE_BENCH_MODEL, a GGUF file.
"""
import json
import os
import time

import torch

from lm_work import TYPES

ROWS, RATE, WARMUP, PAD, IGNORED = 8, 1e-3, 2, 2, -100
DATA = os.path.join(os.path.dirname(__file__), "..", "..", "examples", "commands")


def read(name):
    with open(os.path.join(DATA, name), encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


class Student:
    def __init__(self, dtype):
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder, file = os.path.split(os.environ["METAL_CANDLE_BENCH_MODEL"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        base = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=TYPES[dtype])
        self.end = self.tokenizer.eos_token_id
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = get_peft_model(base, LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.01)
        self.rows = []
        for row in read("train.jsonl"):
            prompt = self.ids(row["prompt"])
            self.rows.append((prompt, self.ids(row["prompt"] + row["completion"])[len(prompt):] + [self.end]))
        self.at = self.tokens = 0

    def ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def batch(self):
        rows = [self.rows[(self.at + i) % len(self.rows)] for i in range(ROWS)]
        self.at += ROWS
        length = max(len(p) + len(a) for p, a in rows)
        ids = torch.full((ROWS, length), PAD)
        labels, mask = torch.full((ROWS, length), IGNORED), torch.zeros((ROWS, length), dtype=torch.long)
        for i, (prompt, answer) in enumerate(rows):
            n = len(prompt) + len(answer)
            self.tokens += n
            ids[i, :n] = torch.tensor(prompt + answer)
            labels[i, len(prompt):n] = torch.tensor(answer)
            mask[i, :n] = 1
        return dict(input_ids=ids, labels=labels, attention_mask=mask)

    def train(self, rates):
        """Seconds of one step for each rate."""
        self.model.train()
        begin = time.perf_counter()
        for rate in rates:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            self.model(**self.batch()).loss.backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        return time.perf_counter() - begin

    @torch.no_grad()
    def score(self, at_once=20):
        self.model.eval()
        self.tokenizer.padding_side, right, rows = "left", 0, read("test.jsonl")
        for i in range(0, len(rows), at_once):
            part = rows[i:i + at_once]
            given = self.tokenizer([r["prompt"] for r in part], return_tensors="pt", padding=True,
                                   add_special_tokens=False)
            out = self.model.generate(input_ids=given.input_ids, attention_mask=given.attention_mask,
                                      max_new_tokens=48, do_sample=False, pad_token_id=PAD, eos_token_id=self.end)
            texts = self.tokenizer.batch_decode(out[:, given.input_ids.shape[1]:], skip_special_tokens=True)
            right += sum(text == row["completion"] for text, row in zip(texts, part))
        return right


def demo(wrap, dtype, steps, target):
    steps, student = int(steps), Student(dtype)
    rates = [RATE * min((s + 1) / WARMUP, (steps - s) / (steps - WARMUP)) for s in range(steps)]

    def learn():
        seconds, done = student.train(rates), steps
        score = student.score()
        while score < float(target) and done < 2 * steps:
            seconds, done = seconds + student.train([RATE / 10] * 10), done + 10
            score = student.score()
        return dict(seconds=seconds, tokens=student.tokens, steps=done, score=score)

    return learn
