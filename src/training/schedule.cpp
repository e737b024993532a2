// Learning rates over steps.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "metal_candle/error.hpp"
#include "metal_candle/optimizer.hpp"

namespace metal_candle {
namespace {

constexpr std::array<std::pair<std::string_view, ScheduleKind>, 3> kNames{{
    {"constant", ScheduleKind::constant},
    {"linear", ScheduleKind::linear},
    {"cosine", ScheduleKind::cosine},
}};

}  // namespace

ScheduleKind schedule_kind(std::string_view name) {
  for (const auto& [known, kind] : kNames)
    if (known == name) return kind;
  throw UserError(ErrorKind::argument,
                  "there is no schedule \"" + std::string(name) + "\"; there are constant, linear and cosine");
}

std::string_view name_of(ScheduleKind kind) { return kNames[static_cast<std::size_t>(kind)].first; }

double Schedule::at(std::int64_t step) const {
  const auto part = [](std::int64_t n, std::int64_t of) {
    return static_cast<double>(n) / static_cast<double>(std::max<std::int64_t>(1, of));
  };
  if (step < warmup) return peak * part(step, warmup);
  switch (kind) {
    case ScheduleKind::linear: return peak * std::max(0.0, part(total - step, total - warmup));
    case ScheduleKind::cosine:
      return peak * std::max(0.0, 0.5 * (1 + std::cos(std::numbers::pi * part(step - warmup, total - warmup))));
    case ScheduleKind::constant: break;
  }
  return peak;
}

}  // namespace metal_candle
