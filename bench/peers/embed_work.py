"""Sentence embeddings: sentence-transformers and ONNX Runtime, texts in, vectors out.

    embed:FOLDER:FILE:f32:32     the file's lines by the model of that folder, in batches of 32
    embed:FOLDER:FILE:f32:1      a file of one line is one query

ONNX Runtime gets the model with mean pooling and unit length exported from PyTorch, its graph fused by the optimizer that
ONNX Runtime has for transformers; sorted by length, as sentence-transformers sorts by itself. It has f32 only. The files go
below METAL_CANDLE_PEERS_MODELS.
"""
import os

from common import THREADS, Missing

FOLDER = os.environ.get("METAL_CANDLE_PEERS_MODELS", "build/peers-models")


def lines(file):
    with open(file, encoding="utf-8") as f:
        return f.read().splitlines()


def sentence_transformers(folder, file, dtype, batch):
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    types = {"f32": torch.float32, "bf16": torch.bfloat16}
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": types[dtype]})
    texts, batch = lines(file), int(batch)
    return lambda: model.encode(texts, batch_size=batch, show_progress_bar=False)


def export(folder, path):
    """The fused graph of the whole model as `path`."""
    import torch
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel, AutoTokenizer

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()

        def forward(self, input_ids, attention_mask, token_type_ids):
            tokens = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
            mask = attention_mask.unsqueeze(-1).float()
            return torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)

    whole = Whole()
    example = AutoTokenizer.from_pretrained(folder)(["one text", "and another one"], padding=True, return_tensors="pt")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    plain = path + ".plain"
    torch.onnx.export(whole, tuple(example[n] for n in names), plain, input_names=names, output_names=["embedding"],
                      dynamic_axes={n: {0: "texts", 1: "tokens"} for n in names}, opset_version=17, dynamo=False)
    config = whole.model.config
    fused = optimizer.optimize_model(plain, "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size)
    fused.save_model_to_file(path + ".new")
    os.replace(path + ".new", path)
    os.remove(plain)


def onnxruntime(folder, file, dtype, batch):
    import numpy as np
    import onnxruntime as rt
    from transformers import AutoTokenizer

    if dtype != "f32":
        raise Missing
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, "embedder.onnx")
    if not os.path.exists(path):
        export(folder, path)
    options = rt.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = rt.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts, batch = sorted(lines(file), key=len), int(batch)

    def run():
        for i in range(0, len(texts), batch):
            tokens = tokenizer(texts[i:i + batch], padding=True, truncation=True, max_length=256, return_tensors="np")
            session.run(None, {k: tokens[k].astype(np.int64) for k in ("input_ids", "attention_mask", "token_type_ids")})

    return run


WORK = {"sentence-transformers": sentence_transformers, "onnxruntime": onnxruntime}


def version(kind):
    from importlib.metadata import version as of

    return f"{kind} {of(kind)}"


def make(name, kind):
    what, *arguments = name.split(":")
    if what != "embed":
        raise Missing
    return WORK[kind](*arguments)
