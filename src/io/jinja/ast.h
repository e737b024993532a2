// A parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/jinja/filters.h"
#include "io/jinja/operations.h"
#include "io/jinja/value.h"

namespace metal_candle::jinja {

struct Expression;
struct Statement;
using ExpressionPointer = std::unique_ptr<Expression>;
using Body = std::vector<Statement>;

/// Names are numbers in a parsed template; Names has them.
using Name = int;

struct Arguments {
  std::vector<ExpressionPointer> positional;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  ExpressionPointer spread, spread_named;  // *list, **dict
};

/// One node; which members are used depends on the kind, as written there.
struct Expression {
  enum class Kind {
    constant,     // value
    name,         // name
    list,         // parts
    tuple,        // parts
    dict,         // parts: key, value, key, ...
    attribute,    // parts[0].text
    item,         // parts[0][parts[1]]
    slice,        // parts[0][parts[1]:parts[2]:parts[3]], the last three may be null
    call,         // parts[0](arguments)
    filter,       // parts[0] | text(arguments); parts[0] null: of a block's text
    test,         // parts[0] is text(arguments)
    logical_not,  // parts[0]
    logical_and,  // parts[0], parts[1]
    logical_or,
    minus,  // parts[0]
    plus,
    binary,       // parts[0] op parts[1]
    concat,       // parts
    compare,      // parts[0] comparisons[0] parts[1] comparisons[1] ...
    conditional,  // parts[0] if parts[1] else parts[2], the last may be null
    target,       // of an assignment: `name`, or `name.text` of a namespace if text is set
  };
  Kind kind;
  int line = 0, column = 0, depth = 1;
  Value value = {};
  Name name = 0;
  std::string text = {};
  Operator op = Operator::add;
  std::vector<ExpressionPointer> parts = {};
  std::vector<Comparison> comparisons = {};
  Arguments arguments = {};
  const Filter* filter = nullptr;
  const Predicate* predicate = nullptr;
};

/// Of a macro or a call block.
struct Signature {
  std::vector<std::pair<Name, std::string>> parameters;
  std::vector<ExpressionPointer> defaults;  // of the last ones
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

struct Statement {
  enum class Kind {
    data,          // text
    print,         // expressions
    set,           // target = expressions[0]
    set_block,     // target = text of bodies[0], through filter if there is one
    branch,        // if expressions[i] then bodies[i]; a body more: else
    loop,          // for target in expressions[0] (if expressions[1]): bodies[0], else bodies[1]
    macro,         // name, signature, bodies[0]
    call_block,    // expressions[0] is the call; signature and bodies[0] its caller
    filter_block,  // filter over the text of bodies[0]
    with,          // targets[i] = expressions[i] within bodies[0]
    scope,         // bodies[0], what is set in it stays in it: a generation block
    block,         // bodies[0], which sees what is global (or everything, if `flag`)
    break_,
    continue_,
  };
  Kind kind;
  int line = 0, column = 0;
  bool flag = false;  // a recursive loop, a scoped block
  Name name = 0;
  std::string text = {};
  ExpressionPointer target = {}, filter = {};
  std::vector<ExpressionPointer> targets = {}, expressions = {};
  std::vector<Body> bodies = {};
  Signature signature = {};
};

/// Names and their numbers. The first ones are fixed.
class Names {
 public:
  enum Fixed : Name { loop, caller, varargs, kwargs, fixed_count };
  Names();
  Name number(const std::string& text);
  const std::string& text(Name name) const { return texts_[static_cast<std::size_t>(name)]; }
  /// The number if the text was ever a name in the template, or -1.
  Name find(const std::string& text) const;
  std::size_t size() const { return texts_.size(); }

 private:
  std::vector<std::string> texts_;
  std::unordered_map<std::string, Name> numbers_;
};

struct Program {
  Names names;
  Body body;
};

/// Throws Fault with the place.
Program parse(std::string_view source);

}  // namespace metal_candle::jinja
