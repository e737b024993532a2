"""One peer of the benchmarks, as a process that answers questions: peer.py KIND, of eager, compile, mlx, llama,
tokenizers, sentence-transformers, onnxruntime.

The harness (bench/suite/peer.cpp) writes lines and reads one line of JSON for each:

    prepare NAME        makes the work NAME ready, compiling if that is what this peer does   {"seconds": first call}
    run NAME SECONDS    runs it for about SECONDS                                {"seconds": median a call, "calls": n}
    memory NAME         runs it five times; peak memory       {"seconds": ..., "peak": bytes, "start": bytes before it}
    once NAME           runs it once, as a fresh process has it; a work that returns numbers adds them to the answer

NAME is what the work is and its shape, such as linear:896:4864:8:bf16. Work that this peer does not have is answered
with {"missing": reason}. Between lines the process sleeps in a read; nothing spins beyond what its thread pool does in
the first milliseconds. THREADS sets the threads; CPU_TIME=1 counts the process's processor time instead of time. Only the latest work is kept.
"""
import json
import os
import statistics
import sys
import time

from common import Missing

# These were for this process, which has read them; a compiler that it starts is not to have them.
for variable in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"):
    os.environ.pop(variable, None)


def median_call(work, budget):
    """Median seconds a call: samples of at least 100 µs, for about `budget` seconds."""
    clock = time.process_time if os.environ.get("CPU_TIME") else time.perf_counter
    begin = clock()
    work()
    first = clock() - begin
    if first > 3:  # long calls count from the first, as in contest.cpp
        return first, 1
    inner = max(1, int(1e-4 / max(first, 1e-9)))
    samples, end = [], time.perf_counter() + budget
    while not samples or time.perf_counter() < end:
        begin = clock()
        for _ in range(inner):
            work()
        samples.append((clock() - begin) / inner)
    return statistics.median(samples), len(samples) * inner


def status_bytes(field):
    """VmRSS or VmHWM of this process."""
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def serve(make, kind):
    """`make(name)` gives a function that does the work once."""
    held = {"name": None, "work": None}

    def ready(name):
        if held["name"] != name:
            held.update(name=None, work=None)
            held.update(work=make(name), name=name)
        return held["work"]

    for line in sys.stdin:
        verb, name, *rest = line.split()
        try:
            if verb == "prepare":
                work, begin = ready(name), time.perf_counter()
                work()
                answer = {"seconds": time.perf_counter() - begin}
                if answer["seconds"] < 1 or kind == "compile":
                    work()
            elif verb == "run":
                seconds, calls = median_call(ready(name), float(rest[0]))
                answer = {"seconds": seconds, "calls": calls}
            elif verb == "memory":
                work, start, begin = ready(name), status_bytes("VmRSS"), time.perf_counter()
                for _ in range(5):
                    work()
                answer = {"seconds": (time.perf_counter() - begin) / 5, "peak": status_bytes("VmHWM"), "start": start}
            elif verb == "once":
                work, begin = ready(name), time.perf_counter()
                more = work()
                answer = {"seconds": time.perf_counter() - begin, "peak": status_bytes("VmHWM")}
                answer |= more if isinstance(more, dict) else {}
            else:
                answer = {"error": f"no such verb: {verb}"}
        except Missing as e:
            answer = {"missing": str(e) or name}
        except Exception as e:  # noqa: BLE001: the harness reports it and goes on
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(e).__name__}: {e}"[:300].replace('"', "'").replace("\n", " ")}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    kind = sys.argv[1]
    if kind == "mlx":
        import mlx_work

        print(json.dumps({"peer": mlx_work.VERSION}), flush=True)
        serve(mlx_work.make, kind)
    elif kind == "llama":
        import llama_work

        print(json.dumps({"peer": llama_work.VERSION}), flush=True)
        serve(llama_work.make, kind)
    elif kind in ("sentence-transformers", "onnxruntime"):
        import embed_work

        print(json.dumps({"peer": embed_work.version(kind)}), flush=True)
        serve(lambda name: embed_work.make(name, kind), kind)
    elif kind == "tokenizers":
        import tokenize_work

        print(json.dumps({"peer": tokenize_work.VERSION}), flush=True)
        serve(tokenize_work.make, kind)
    else:
        import torch_work

        print(json.dumps({"peer": torch_work.VERSION}), flush=True)
        serve(lambda name: torch_work.make(name, kind), kind)
