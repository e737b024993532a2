#include "metal_candle/json.hpp"

#include "metal_candle/error.hpp"
#include "tests/fuzz/targets.h"

namespace metal_candle::fuzz {
namespace {

/// Every value can say where it is; asking all of them would be quadratic.
void walk(const Json& value, int& left) {
  if (--left < 0) return;
  must(!value.path().empty() || left == 9, "a value below the root has a path");
  if (value.is_array())
    for (const Json& e : value.elements()) walk(e, left);
  if (value.is_object())
    for (const JsonMember& m : value.items()) {
      must(value.find(m.key) == &m.value, "a member is found by its key");
      walk(m.value, left);
    }
}

}  // namespace

void json(std::string_view bytes) {
  Json value;
  try {
    value = Json::parse(bytes, "fuzz.json");
  } catch (const FileError&) {
    return;
  }
  int left = 10;
  walk(value, left);
  const std::string dumped = value.dump();
  const Json again = Json::parse(dumped, "dumped.json");
  must(again == value, "what was dumped reads back the same");
  must(again.dump() == dumped, "and dumps the same");
  must(Json::parse(value.dump(2), "indented.json") == value, "indented as well");
  Json copy = value;
  value = Json();
  must(copy == again, "a copy outlives its source");
}

}  // namespace metal_candle::fuzz
