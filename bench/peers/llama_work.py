"""llama.cpp, through llama-cpp-python's C interface: lm_prefill, lm_decode and lm_load as lm_work.py names them.

    lm_prefill:qwen:512:f16    lm_decode:smol:64:32:bf16    lm_load:16    (a file to the first token behind 16)

A model of a named shape has random weights; its GGUF file is made once, below METAL_CANDLE_PEERS_MODELS. The file of
lm_load is METAL_CANDLE_BENCH_MODEL.
"""
import ctypes
import importlib.metadata
import os

import numpy as np

import llama_cpp as llama
from common import THREADS, Missing
from shapes import SHAPES

VERSION = f"llama.cpp (llama-cpp-python {importlib.metadata.version('llama-cpp-python')})"
FOLDER = os.environ.get("METAL_CANDLE_PEERS_MODELS", "build/peers-models")

quiet = llama.llama_log_callback(lambda *_: None)
llama.llama_log_set(quiet, ctypes.c_void_p(0))
llama.llama_backend_init()


def write_model(shape, dtype, path):
    import gguf

    s = SHAPES[shape]
    hidden, head = s["hidden"], s["hidden"] // s["heads"]
    kind = {"f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}[dtype]
    raw = gguf.GGMLQuantizationType.BF16 if dtype == "bf16" else None
    out = gguf.GGUFWriter(path, s["arch"])
    out.add_block_count(s["layers"])
    out.add_context_length(8192)
    out.add_embedding_length(hidden)
    out.add_feed_forward_length(s["mlp"])
    out.add_head_count(s["heads"])
    out.add_head_count_kv(s["kv"])
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(s["base"])
    out.add_rope_dimension_count(head)
    out.add_vocab_size(s["vocab"])
    out.add_file_type(kind)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list([f"<t{i}>" for i in range(s["vocab"])])
    out.add_token_types([1] * s["vocab"])
    out.add_token_merges(["<t 0>"])
    out.add_eos_token_id(2)
    out.add_bos_token_id(1)
    random = np.random.default_rng(0)

    def matrix(name, *shape_):
        values = random.standard_normal(shape_, dtype=np.float32) * np.float32(0.02)
        if dtype == "bf16":
            out.add_tensor(name, (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8), raw_dtype=raw)
        else:
            out.add_tensor(name, values.astype(np.float16))

    def vector(name, n, value):
        out.add_tensor(name, np.full(n, value, np.float32))

    matrix("token_embd.weight", s["vocab"], hidden)
    vector("output_norm.weight", hidden, 1)
    for i in range(s["layers"]):
        block = f"blk.{i}."
        vector(block + "attn_norm.weight", hidden, 1)
        vector(block + "ffn_norm.weight", hidden, 1)
        for name, rows, columns in (
                ("attn_q", hidden, hidden), ("attn_k", s["kv"] * head, hidden), ("attn_v", s["kv"] * head, hidden),
                ("attn_output", hidden, hidden), ("ffn_gate", s["mlp"], hidden), ("ffn_up", s["mlp"], hidden),
                ("ffn_down", hidden, s["mlp"])):
            matrix(f"{block}{name}.weight", rows, columns)
            if s["bias"] and name in ("attn_q", "attn_k", "attn_v"):
                vector(f"{block}{name}.bias", rows, 0.01)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


class Model:
    """A loaded model with one context."""

    def __init__(self, path):
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        context = llama.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = 1024, 512, 512
        context.n_threads = context.n_threads_batch = THREADS
        self.context = llama.llama_init_from_model(self.model, context)
        self.memory = llama.llama_get_memory(self.context)

    def run(self, count, start=0):
        tokens = (llama.llama_token * count)(*[(7 * i + start) % 40000 for i in range(count)])
        if llama.llama_decode(self.context, llama.llama_batch_get_one(tokens, count)) != 0:
            raise RuntimeError("llama_decode failed")
        llama.llama_synchronize(self.context)


def of_shape(shape, dtype):
    if shape not in SHAPES or dtype not in ("f16", "bf16"):
        raise Missing
    os.makedirs(FOLDER, exist_ok=True)
    path = os.path.join(FOLDER, f"{shape}-{dtype}.gguf")
    if not os.path.exists(path):
        write_model(shape, dtype, path + ".part")
        os.rename(path + ".part", path)
    return Model(path)


def lm_prefill(shape, length, dtype):
    model = of_shape(shape, dtype)

    def prompt():
        llama.llama_memory_clear(model.memory, True)
        model.run(int(length))

    return prompt


def lm_decode(shape, length, count, dtype):
    model, length = of_shape(shape, dtype), int(length)
    model.run(length)

    def tokens():
        for i in range(int(count)):
            model.run(1, i)
        llama.llama_memory_seq_rm(model.memory, 0, length, -1)

    return tokens


def lm_load(length):
    def first_token():
        model = Model(os.environ["METAL_CANDLE_BENCH_MODEL"])
        model.run(int(length))
        vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model.model))
        np.ctypeslib.as_array(llama.llama_get_logits_ith(model.context, -1), (vocabulary,)).argmax()

    return first_token


WORK = {f.__name__: f for f in (lm_prefill, lm_decode, lm_load)}


def make(name):
    what, *arguments = name.split(":")
    if what not in WORK:
        raise Missing
    return WORK[what](*arguments)
