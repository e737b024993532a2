// A plan as text: what runs, in which phase, over how many bytes, and where results lie.
#include <fmt/format.h>

#include "compiler/plan.h"

namespace metal_candle {
namespace {

std::string short_name(const Plan& p, int b) {
  const PlanBuffer& buf = p.buffers[static_cast<std::size_t>(b)];
  if (buf.where == PlanBuffer::Where::leaf) return fmt::format("leaf{}", buf.index);
  return buf.where == PlanBuffer::Where::output ? fmt::format("out{}", buf.index) : fmt::format("t{}", b);
}

std::string buffer_text(const Plan& p, int b) {
  if (b < 0) return "-";
  const PlanBuffer& buf = p.buffers[static_cast<std::size_t>(b)];
  const std::string over = buf.same_as >= 0 ? " over " + short_name(p, buf.same_as) : std::string();
  switch (buf.where) {
    case PlanBuffer::Where::leaf: return fmt::format("leaf{}", buf.index);
    case PlanBuffer::Where::output: return fmt::format("out{}{}", buf.index, over);
    case PlanBuffer::Where::slot: return fmt::format("slot{}", buf.index);
    case PlanBuffer::Where::constant: return "constant";
    case PlanBuffer::Where::tile: return "tile";
    case PlanBuffer::Where::arena: break;
  }
  return fmt::format("t{}{}", b, over);
}

/// The first few of a list, and how many more there are.
std::string list_text(const Plan& p, const std::vector<int>& buffers) {
  constexpr std::size_t kShown = 8;
  std::string out;
  for (std::size_t i = 0; i < buffers.size() && i < kShown; ++i) out += (i ? ", " : "") + buffer_text(p, buffers[i]);
  if (buffers.size() > kShown) out += fmt::format(", {} more", buffers.size() - kShown);
  return out;
}

std::string step_text(const Plan& p, const PlanStep& s, const std::string* scope) {
  std::string out = fmt::format("  {:<3} ", s.phase);
  if (s.kind == PlanStep::Kind::matmul) {
    const MatmulStep& m = s.matmul;
    std::int64_t batch = 1;
    for (const auto d : m.batch) batch *= d;
    const auto byte = [](bool is_signed) { return name(is_signed ? DType::i8 : DType::u8); };
    const std::string from = m.bytes ? fmt::format("{}*{}->", byte(m.bytes->a_signed), byte(m.bytes->b_signed)) : "";
    out +=
        fmt::format("{} {}{} [{}{}x{}x{}{}]", s.label, from, name(m.dtype), batch > 1 ? fmt::format("{}·", batch) : "",
                    m.m, m.n, m.k, m.k2 > 0 ? fmt::format("+{}", m.k2) : "");
    if (m.b.constant) out += " packed";
  } else if (s.kind == PlanStep::Kind::fused) {
    out += s.label + " [" + std::to_string(s.program.rows) + " rows";
    for (const KStage& stage : s.program.stages) out += fmt::format(" |{}", stage.cols);
    out += "]";
  } else {
    out += s.label;
  }
  out += " (";
  out += list_text(p, s.reads) + ") -> " + list_text(p, s.writes);
  if (scope) out += "  # " + *scope;
  return out + "\n";
}

}  // namespace

std::string Plan::str(std::span<const std::string* const> scopes) const {
  std::string out = fmt::format("plan: {} steps in {} phases, {} leaves, {} slots, arena {} bytes", steps.size(),
                                phases, leaves, slots, arena_bytes);
  if (most_live_bytes < arena_bytes) out += fmt::format(" ({} live at once)", most_live_bytes);
  out += '\n';
  for (std::size_t i = 0; i < steps.size(); ++i)
    out += step_text(*this, steps[i], scopes.empty() ? steps[i].scope : scopes[i]);
  out += "outputs:";
  for (const PlanOutput& o : outputs)
    out +=
        fmt::format(" {} {} {}{}", buffer_text(*this, o.buffer), name(o.dtype), o.shape.str(), o.dense ? "" : " view");
  out += "\npasses (us):";
  for (const PassTime& t : times) out += fmt::format(" {} {:.0f}", t.name, t.microseconds);
  return out + "\n";
}

}  // namespace metal_candle
