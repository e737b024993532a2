#include "tests/ops/oracle_calls.h"

#include <stdexcept>

#include "metal_candle/op_def.hpp"
#include "metal_candle/ops.hpp"

namespace metal_candle::test {
namespace {

using Calls = std::map<std::string, OracleCall>;
using A = Arguments;
using Results = std::vector<LazyTensor>;

// Axes are the digits after a leading 1.
Axes axes_of(const A& a) {
  Axes axes;
  const std::string digits = std::to_string(a.integer("axes"));
  for (const char digit : digits.substr(1)) axes.push_back(digit - '0');
  return axes;
}

void add_elementwise(Calls& c) {
#define MC_UNARY(name, ...) c[#name] = [](const A& a) -> Results { return {name(a["x"])}; };
#define MC_BINARY(name, ...) c[#name] = [](const A& a) -> Results { return {name(a["x"], a["z"])}; };
#define MC_COMPARE(name, ...) c[#name] = [](const A& a) -> Results { return {name(a["x"], a["z"])}; };
#define MC_LOGIC(name, ...) c[#name] = [](const A& a) -> Results { return {name(a["x"], a["z"])}; };
#include "metal_candle/elementwise.def"
  c["pow_int"] = [](const A& a) -> Results { return {pow(a["x"], static_cast<int>(a.integer("exponent")))}; };
  c["is_nan"] = [](const A& a) -> Results { return {is_nan(a["x"])}; };
  c["is_inf"] = [](const A& a) -> Results { return {is_inf(a["x"])}; };
  c["logical_not"] = [](const A& a) -> Results { return {logical_not(a["x"])}; };
  c["where"] = [](const A& a) -> Results { return {where(a["condition"], a["a"], a["b"])}; };
  c["where_scalar"] = [](const A& a) -> Results { return {where(a["condition"], Scalar(1.5), a["b"])}; };
  c["clamp"] = [](const A& a) -> Results { return {clamp(a["x"], -0.75, 1.0)}; };
  c["add_scalar"] = [](const A& a) -> Results { return {a["x"] + 0.75}; };
  c["rsub_scalar"] = [](const A& a) -> Results { return {0.75 - a["x"]}; };
  c["mul_scalar"] = [](const A& a) -> Results { return {a["x"] * 0.75f}; };
  c["rdiv_scalar"] = [](const A& a) -> Results { return {0.75 / a["x"]}; };
  c["cast"] = [](const A& a) -> Results {
    for (int d = 0; d < kDTypeCount; ++d)
      if (a.integer("to_" + std::string(name(static_cast<DType>(d))))) return {cast(a["x"], static_cast<DType>(d))};
    throw std::runtime_error("cast to what?");
  };
}

void add_reductions(Calls& c) {
#define REDUCTION(name) \
  c[#name] = [](const A& a) -> Results { return {name(a["x"], axes_of(a), a.integer("keepdim") != 0)}; };
  REDUCTION(sum)
  REDUCTION(mean)
  REDUCTION(max)
  REDUCTION(min)
  REDUCTION(prod)
  REDUCTION(logsumexp)
#undef REDUCTION
  c["var"] = [](const A& a) -> Results {
    return {var(a["x"], axes_of(a), a.integer("keepdim") != 0, static_cast<int>(a.integer("correction", 1)))};
  };
  c["argmax"] = [](const A& a) -> Results { return {argmax(a["x"], a.axis())}; };
  c["argmin"] = [](const A& a) -> Results { return {argmin(a["x"], a.axis())}; };
  c["cumsum"] = [](const A& a) -> Results { return {cumsum(a["x"], a.axis())}; };
}

CrossEntropyOptions loss_options(const A& a) {
  return {.ignore_index = a.integer("ignore"),
          .label_smoothing = a.real("smoothing"),
          .reduction = static_cast<Reduction>(a.integer("reduction"))};
}

void add_rows(Calls& c) {
  c["softmax"] = [](const A& a) -> Results { return {softmax(a["x"], a.axis())}; };
  c["log_softmax"] = [](const A& a) -> Results { return {log_softmax(a["x"], a.axis())}; };
  c["rms_norm"] = [](const A& a) -> Results { return {rms_norm(a["x"], a["weight"], a.real("eps"))}; };
  c["layer_norm"] = [](const A& a) -> Results { return {layer_norm(a["x"], a["weight"], a["bias"], a.real("eps"))}; };
  c["cross_entropy"] = [](const A& a) -> Results {
    return {cross_entropy(a["logits"], a["targets"], loss_options(a))};
  };
  c["linear_cross_entropy"] = [](const A& a) -> Results {
    return {linear_cross_entropy(a["x"], a["w"], a["targets"], loss_options(a))};
  };
}

void add_products(Calls& c) {
  c["matmul"] = [](const A& a) -> Results { return {matmul(a["a"], a["b"])}; };
  c["matmul_nt"] = [](const A& a) -> Results { return {matmul(a["a"], transpose(a["b"]))}; };
  c["matmul_tn"] = [](const A& a) -> Results { return {matmul(transpose(a["a"]), a["b"])}; };
  c["linear"] = [](const A& a) -> Results { return {linear(a["x"], a["w"], a["bias"])}; };
  c["lora"] = [](const A& a) -> Results { return {lora_fused(a["x"], a["a"], a["b"], a.real("scale"))}; };
}

void add_places(Calls& c) {
  c["take"] = [](const A& a) -> Results { return {take(a["table"], a["indices"])}; };
  c["take_along_axis"] = [](const A& a) -> Results { return {take_along_axis(a["a"], a["indices"], a.axis())}; };
  c["scatter_add"] = [](const A& a) -> Results { return {scatter_add(a["base"], a["indices"], a["updates"])}; };
  c["set_rows"] = [](const A& a) -> Results { return {set_rows(a["base"], a["indices"], a["rows"])}; };
  c["concat"] = [](const A& a) -> Results {
    Results parts{a["a"], a["b"]};
    if (a["c"].defined()) parts.push_back(a["c"]);
    return {concat(parts, a.axis())};
  };
  c["stack"] = [](const A& a) -> Results { return {stack({a["a"], a["b"]}, a.axis())}; };
  c["pad"] = [](const A& a) -> Results {
    return {pad(a["x"], {a.integer("before0"), a.integer("before1")}, {a.integer("after0"), a.integer("after1")},
                a.real("value"))};
  };
  c["dynamic_slice"] = [](const A& a) -> Results {
    return {dynamic_slice(a["x"], a.axis(), scalar(a.integer("start")), a.integer("extent"))};
  };
  c["dynamic_update_slice"] = [](const A& a) -> Results {
    const LazyTensor start = Tensor::scalar(static_cast<std::int32_t>(a.integer("start")));
    return {dynamic_update_slice(a["x"], a["update"], a.axis(), start)};
  };
  c["sort"] = [](const A& a) -> Results {
    const Sorted s = sort(a["x"], a.axis(), a.integer("descending") != 0);
    return {s.values, s.indices};
  };
  c["topk"] = [](const A& a) -> Results {
    const Sorted s = topk(a["x"], a.integer("k"));
    return {s.values, s.indices};
  };
  c["iota"] = [](const A&) -> Results { return {iota({2, 3}, 1)}; };
  c["arange"] = [](const A&) -> Results { return {arange(5)}; };
  c["full"] = [](const A&) -> Results { return {full({2, 3}, 1.5)}; };
}

// Of x [2, 3, 4].
void add_views(Calls& c) {
  c["reshape"] = [](const A& a) -> Results { return {reshape(a["x"], {4, -1})}; };
  c["permute"] = [](const A& a) -> Results { return {permute(a["x"], {2, 0, 1})}; };
  c["transpose"] = [](const A& a) -> Results { return {transpose(a["x"], 0, 2)}; };
  c["expand"] = [](const A& a) -> Results { return {expand(slice(a["x"], 1, 0, 1), {2, 5, 4})}; };
  c["slice"] = [](const A& a) -> Results { return {slice(a["x"], 1, 1, 3)}; };
  c["slice_step"] = [](const A& a) -> Results { return {slice(a["x"], -1, 1, 4, 2)}; };
  c["squeeze"] = [](const A& a) -> Results { return {squeeze(slice(a["x"], 1, 1, 2), 1)}; };
  c["flatten"] = [](const A& a) -> Results { return {flatten(a["x"], 1)}; };
  c["split"] = [](const A& a) -> Results { return {split(a["x"], {1, 3}, 2)[1]}; };
}

void add_attention(Calls& c) {
  c["rope"] = [](const A& a) -> Results {
    return {rope(a["x"], a["positions"], a.real("base", 10000), a["inv_freq"])};
  };
  c["attention"] = [](const A& a) -> Results {
    AttentionOptions o{.scale = a.real("scale"),
                       .causal = a.integer("causal") != 0,
                       .window = a.integer("window"),
                       .softcap = a.real("softcap"),
                       .query_offsets = a["query_offsets"],
                       .key_offsets = a["key_offsets"],
                       .key_lengths = a["key_lengths"],
                       .query_positions = a["q_pos"],
                       .key_positions = a["k_pos"],
                       .bias = a["bias"].defined() ? a["bias"] : a["mask"]};
    return {attention(a["q"], a["k"], a["v"], o)};
  };
}

}  // namespace

const Calls& oracle_calls() {
  static const Calls calls = [] {
    Calls c;
    add_elementwise(c);
    add_reductions(c);
    add_rows(c);
    add_products(c);
    add_places(c);
    add_views(c);
    add_attention(c);
    return c;
  }();
  return calls;
}

}  // namespace metal_candle::test
