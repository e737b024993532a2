// What Python's operators do.
#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "io/jinja/value.h"

namespace metal_candle::jinja {

enum class Operator { add, subtract, multiply, divide, floor_divide, modulo, power };
enum class Comparison { equal, unequal, less, less_equal, greater, greater_equal, in, not_in };

Value binary(Operator, const Value& left, const Value& right);
Value negative(const Value&);
Value positive(const Value&);

/// ==, of anything with anything.
bool equal(const Value&, const Value&);
bool compare(Comparison, const Value& left, const Value& right);
/// Throws for what cannot be a key.
std::size_t hash_of(const Value&);
bool contains(const Value& container, const Value& item);

/// What a loop visits: items, keys, characters. A generator is then spent.
std::vector<Value> iterate(const Value&);
bool is_iterable(const Value&);
/// len(): throws where Python does.
std::int64_t length(const Value&);

/// An argument that must be an int; names it otherwise.
std::int64_t to_int(const Value&, std::string_view what);

/// Places of a slice [start:stop:step] in a sequence of `size`. Each may be None.
std::vector<std::size_t> slice_places(std::size_t size, const Value& start, const Value& stop, const Value& step);
Value slice(const Value& subject, const Value& start, const Value& stop, const Value& step);

}  // namespace metal_candle::jinja
