// The commands: each returns an exit code, or throws.
#pragma once

namespace metal_candle::cli {

class Invocation;

int generate(const Invocation&);
int chat(const Invocation&);
int score(const Invocation&);
int train(const Invocation&);
int embed(const Invocation&);
int search(const Invocation&);
int merge(const Invocation&);
int convert(const Invocation&);
int tokenize(const Invocation&);
int inspect(const Invocation&);
int devices(const Invocation&);
int bench(const Invocation&);
int completions(const Invocation&);

}  // namespace metal_candle::cli
