// Model: a configuration, its weights checked against it, and the pass through its family's layers.
#include "metal_candle/model.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "metal_candle/autograd.hpp"
#include "metal_candle/error.hpp"
#include "metal_candle/runtime.hpp"
#include "models/family.h"

namespace metal_candle {

using models::Family;
using models::Pass;

struct Model::State {
  ModelConfig config;
  const Family* family;
  ParamTree parameters;
  nn::Weights weights;
  nn::RopeTable rope;

  LazyTensor pass(const nn::Weights& w, const Batch& batch, nn::KeyValues* cache, const ForwardOptions& options) const;
};

namespace {

[[noreturn]] void fail(ErrorKind kind, const std::string& why) { throw UserError(kind, "model: " + why); }

/// The parameters that the configuration asks for, in its order, evaluated and frozen.
ParamTree checked(const ModelConfig& config, const ParamTree& given) {
  ParamTree wanted;
  for (const auto& [path, shape] : weight_shapes(config)) {
    if (!given.contains(path))
      fail(ErrorKind::argument, fmt::format("the weight \"{}\" {} is missing", path, shape.str()));
    const LazyTensor& t = given[path];
    if (t.shape() != shape)
      fail(ErrorKind::shape, fmt::format("the weight \"{}\" is {}, expected {}", path, t.shape().str(), shape.str()));
    if (!is_float(t.dtype())) fail(ErrorKind::dtype, fmt::format("the weight \"{}\" is {}", path, name(t.dtype())));
    wanted.insert(path, t);
  }
  eval(wanted.tensors());
  for (const auto& [path, tensor] : wanted) Tensor(tensor).freeze();
  return wanted;
}

/// What a pass reads: the parameters, and the head also where it is the embedding.
nn::Weights readable(const ModelConfig& config, const ParamTree& parameters) {
  ParamTree all = parameters;
  if (config.tied_embeddings) all.insert("lm_head.weight", parameters["model.embed_tokens.weight"]);
  return nn::Weights(all);
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

void check_batch(const Batch& batch) {
  if (!batch.ids.defined() || !batch.positions.defined()) fail(ErrorKind::argument, "a batch has ids and positions");
  if (batch.ids.rank() != 1) fail(ErrorKind::shape, "ids are [t], not " + batch.ids.shape().str());
  for (const auto& [what, t] : {std::pair("positions", batch.positions), std::pair("lengths", batch.lengths)})
    if (t.defined() && t.shape() != batch.ids.shape())
      fail(ErrorKind::shape, fmt::format("{} are {} for ids {}", what, t.shape().str(), batch.ids.shape().str()));
}

}  // namespace

LazyTensor Model::State::pass(const nn::Weights& w, const Batch& batch, nn::KeyValues* cache,
                              const ForwardOptions& options) const {
  check_batch(batch);
  const nn::Rope turn(rope, batch.positions, batch.lengths);
  const Pass pass{config, w, turn, batch, cache};
  LazyTensor x = family->embed(pass);
  for (int i = 0; i < config.layers; ++i) {
    const auto layer = [&](const std::vector<LazyTensor>& in) { return family->layer(pass, i, in[0]); };
    x = options.checkpoint_layers ? checkpoint(layer, {x}) : layer({x});
  }
  return family->finish(pass, x);
}

Model::Model(ModelConfig config, const ParamTree& parameters) {
  config.check();
  auto state = std::make_shared<State>();
  state->family = &models::family_named(config.family);
  state->parameters = checked(config, parameters);
  state->weights = readable(config, state->parameters);
  state->rope = nn::rope_table(config.head_width, config.rope_base, config.rope);
  state->config = std::move(config);
  state_ = std::move(state);
}

Model Model::random(const ModelConfig& config, Key key, DType dtype) {
  config.check();
  const Family& family = models::family_named(config.family);
  ParamTree tree;
  std::uint64_t number = 0;
  for (const auto& [path, shape] : weight_shapes(config)) {
    const bool norm = ends_with(path, "norm.weight");
    const double mean = norm && !family.norms_add_one ? 1 : 0, deviation = norm ? 0.1 : 0.02;
    Tensor weight = cast(randn(shape, {.key = key.fold(number++)}) * deviation + mean, dtype).eval();
    tree.insert(path, weight);
  }
  return Model(config, tree);
}

const ModelConfig& Model::config() const { return state_->config; }
const ParamTree& Model::parameters() const { return state_->parameters; }
const nn::Weights& Model::weights() const { return state_->weights; }
DType Model::dtype() const { return state_->parameters["model.embed_tokens.weight"].dtype(); }

std::vector<std::string> Model::linear_modules() const {
  std::vector<std::string> modules;
  for (const auto& [path, tensor] : state_->parameters)
    if (tensor.rank() == 2 && path != "model.embed_tokens.weight") modules.push_back(path.substr(0, path.rfind('.')));
  return modules;
}

LazyTensor Model::hidden(const nn::Weights& w, const Batch& batch, const ForwardOptions& options) const {
  return state_->pass(w, batch, nullptr, options);
}

LazyTensor Model::hidden(const nn::Weights& w, const Batch& batch, nn::KeyValues& cache) const {
  if (!batch.offsets.defined()) fail(ErrorKind::argument, "a batch that goes on from a cache needs offsets");
  return state_->pass(w, batch, &cache, {});
}

LazyTensor Model::logits(const nn::Weights& w, const LazyTensor& hidden) const {
  const LazyTensor y = w.linear("lm_head", hidden);
  const double cap = state_->config.logit_softcap;
  if (cap <= 0) return y;
  const LiteralScope literal;
  return cast(tanh(cast(y, DType::f32) * (1 / cap)) * cap, y.dtype());
}

LazyTensor Model::cross_entropy(const nn::Weights& w, const LazyTensor& hidden, const LazyTensor& targets,
                                const CrossEntropyOptions& options) const {
  if (state_->config.logit_softcap > 0)
    return metal_candle::cross_entropy(cast(logits(w, hidden), DType::f32), targets, options);
  const nn::Weights::Product head = w.product("lm_head", hidden);
  return cast(linear_cross_entropy(head.x, transpose(head.weight), targets, options), DType::f32);
}

}  // namespace metal_candle
