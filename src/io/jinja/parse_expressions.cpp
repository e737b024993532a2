// Expressions, from `a if b else c` down to names and literals. The order of binding is jinja2's, not Python's.
#include <algorithm>

#include "io/jinja/parser.h"
#include "io/jinja/repr.h"

namespace metal_candle::jinja {

namespace {

constexpr int kMaxNesting = 100;  // brackets and blocks within one another
constexpr int kMaxDepth = 250;    // of a tree: a + b + c + ...

}  // namespace

Nesting::Nesting(Parser& parser) : parser_(parser) {
  if (++parser.nesting_ > kMaxNesting) {
    --parser.nesting_;
    const Token& where = parser.current();
    throw Fault{Reason::limit, "nests deeper than " + std::to_string(kMaxNesting) + " levels", where.line,
                where.column};
  }
}

void Parser::close(Expression& node) const {
  auto count = [&](const Node& part) {
    if (part) node.depth = std::max(node.depth, part->depth + 1);
  };
  std::for_each(node.parts.begin(), node.parts.end(), count);
  std::for_each(node.arguments.positional.begin(), node.arguments.positional.end(), count);
  for (const auto& [name, part] : node.arguments.named) count(part);
  count(node.arguments.spread);
  count(node.arguments.spread_named);
  if (node.depth > kMaxDepth)
    throw Fault{Reason::limit, "an expression is deeper than " + std::to_string(kMaxDepth) + " operations", node.line,
                node.column};
}

Parser::Node Parser::make(Expression::Kind kind, const Token& where) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = where.line;
  node->column = where.column;
  return node;
}

Parser::Node Parser::make(Expression::Kind kind, const Token& where, std::initializer_list<Node*> parts) {
  Node node = make(kind, where);
  for (Node* part : parts) node->parts.push_back(std::move(*part));
  close(*node);
  return node;
}

Parser::Node Parser::expression(bool with_condition) { return with_condition ? conditional() : logical_or(); }

Parser::Node Parser::conditional() {
  const Nesting nesting(*this);
  const Token& where = current();
  const std::size_t known = unknown_.size();
  Node value = logical_or();
  while (skip_name("if")) {
    Node condition = logical_or(), otherwise;
    if (skip_name("else")) otherwise = conditional();
    value = make(Expression::Kind::conditional, where, {&value, &condition, &otherwise});
    unknown_.erase(unknown_.begin() + static_cast<std::ptrdiff_t>(known),
                   unknown_.end());  // in here, a filter that is not there matters when it is wanted
  }
  return value;
}

Parser::Node Parser::logical_or() {
  const Token& where = current();
  Node left = logical_and();
  while (skip_name("or")) {
    Node right = logical_and();
    left = make(Expression::Kind::logical_or, where, {&left, &right});
  }
  return left;
}

Parser::Node Parser::logical_and() {
  const Token& where = current();
  Node left = logical_not();
  while (skip_name("and")) {
    Node right = logical_not();
    left = make(Expression::Kind::logical_and, where, {&left, &right});
  }
  return left;
}

Parser::Node Parser::logical_not() {
  const Nesting nesting(*this);
  const Token& where = current();
  if (!skip_name("not")) return comparison();
  Node of = logical_not();
  return make(Expression::Kind::logical_not, where, {&of});
}

bool Parser::comparison_sign(Comparison& which) {
  constexpr std::pair<std::string_view, Comparison> kSigns[] = {
      {"==", Comparison::equal},      {"!=", Comparison::unequal}, {"<", Comparison::less},
      {"<=", Comparison::less_equal}, {">", Comparison::greater},  {">=", Comparison::greater_equal}};
  for (const auto& [sign, comparison] : kSigns) {
    if (!skip_sign(sign)) continue;
    which = comparison;
    return true;
  }
  which = current().is_name("not") && ahead().is_name("in") ? Comparison::not_in : Comparison::in;
  if (which == Comparison::not_in) take();
  return skip_name("in");
}

Parser::Node Parser::comparison() {
  const Token& where = current();
  Node first = sum();
  Comparison which;
  if (!comparison_sign(which)) return first;
  Node node = make(Expression::Kind::compare, where, {&first});
  do {
    node->comparisons.push_back(which);
    node->parts.push_back(sum());
  } while (comparison_sign(which));
  close(*node);
  return node;
}

Parser::Node Parser::binary(Operator op, Node left, Node right, const Token& where) {
  Node node = make(Expression::Kind::binary, where, {&left, &right});
  node->op = op;
  return node;
}

Parser::Node Parser::sum() {
  const Token& where = current();
  Node left = concat();
  for (;;) {
    if (skip_sign("+")) left = binary(Operator::add, std::move(left), concat(), where);
    else if (skip_sign("-")) left = binary(Operator::subtract, std::move(left), concat(), where);
    else return left;
  }
}

Parser::Node Parser::concat() {
  const Token& where = current();
  Node first = product();
  if (!current().is_sign("~")) return first;
  Node node = make(Expression::Kind::concat, where, {&first});
  while (skip_sign("~")) node->parts.push_back(product());
  close(*node);
  return node;
}

Parser::Node Parser::product() {
  const Token& where = current();
  Node left = power();
  for (;;) {
    if (skip_sign("*")) left = binary(Operator::multiply, std::move(left), power(), where);
    else if (skip_sign("/")) left = binary(Operator::divide, std::move(left), power(), where);
    else if (skip_sign("//")) left = binary(Operator::floor_divide, std::move(left), power(), where);
    else if (skip_sign("%")) left = binary(Operator::modulo, std::move(left), power(), where);
    else return left;
  }
}

Parser::Node Parser::power() {
  const Token& where = current();
  Node left = unary();
  while (skip_sign("**")) left = binary(Operator::power, std::move(left), unary(), where);
  return left;
}

Parser::Node Parser::unary(bool with_filters) {
  const Nesting nesting(*this);
  const Token& where = current();
  Node node;
  if (skip_sign("-")) {
    Node of = unary(false);
    node = make(Expression::Kind::minus, where, {&of});
  } else if (skip_sign("+")) {
    Node of = unary(false);
    node = make(Expression::Kind::plus, where, {&of});
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters(std::move(node)) : std::move(node);
}

Parser::Node Parser::primary() {
  const Token& token = current();
  if (token.kind == Token::Kind::text) return text();
  if (token.is_sign("[")) return list();
  if (token.is_sign("{")) return dict();
  if (skip_sign("(")) {
    Node node = tuple({.parenthesised = true});
    expect_sign(")");
    return node;
  }
  Node node = make(Expression::Kind::constant, token);
  if (token.kind == Token::Kind::integer || token.kind == Token::Kind::real) {
    node->value = token.number;
  } else if (token.is_name("true") || token.is_name("True")) {
    node->value = true;
  } else if (token.is_name("false") || token.is_name("False")) {
    node->value = false;
  } else if (token.kind == Token::Kind::name && !token.is_name("none") && !token.is_name("None")) {
    node->kind = Expression::Kind::name;
    node->name = names_.number(token.text);
    node->text = token.text;
  } else if (token.kind != Token::Kind::name) {
    fail("unexpected " + in_quotes(describe(token)));
  }
  take();
  return node;
}

Parser::Node Parser::text() {
  Node node = make(Expression::Kind::constant, current());
  std::string all;
  while (current().kind == Token::Kind::text) all += take().text;
  node->value = Value(std::move(all));
  return node;
}

Parser::Node Parser::list() {
  Node node = make(Expression::Kind::list, take());
  while (!current().is_sign("]")) {
    if (!node->parts.empty()) expect_sign(",");
    if (current().is_sign("]")) break;
    node->parts.push_back(expression());
  }
  expect_sign("]");
  close(*node);
  return node;
}

Parser::Node Parser::dict() {
  Node node = make(Expression::Kind::dict, take());
  while (!current().is_sign("}")) {
    if (!node->parts.empty()) expect_sign(",");
    if (current().is_sign("}")) break;
    node->parts.push_back(expression());
    expect_sign(":");
    node->parts.push_back(expression());
  }
  expect_sign("}");
  close(*node);
  return node;
}

bool Parser::tuple_ends(std::string_view end) const {
  const Token& token = current();
  return token.kind == Token::Kind::print_end || token.kind == Token::Kind::tag_end || token.is_sign(")") ||
         (!end.empty() && token.is_name(end));
}

Parser::Node Parser::tuple(TupleStyle style) {
  const Token& where = current();
  Node node = make(Expression::Kind::tuple, where);
  bool comma = false;
  while (!tuple_ends(style.end)) {
    node->parts.push_back(expression(style.conditional));
    if (!skip_sign(",")) break;
    comma = true;
  }
  if (!comma && !node->parts.empty()) return std::move(node->parts[0]);
  if (!comma && !style.parenthesised) fail("Expected an expression, got " + in_quotes(describe(current())));
  close(*node);
  return node;
}

Parser::Node Parser::postfix(Node node) {
  for (;;) {
    if (current().is_sign(".")) node = member(std::move(node));
    else if (current().is_sign("[")) node = subscript(std::move(node));
    else if (current().is_sign("(")) node = call(std::move(node));
    else return node;
  }
}

Parser::Node Parser::filters(Node node) {
  for (;;) {
    if (current().is_sign("|")) node = filter(std::move(node), false);
    else if (current().is_name("is")) node = test(std::move(node));
    else if (current().is_sign("(")) node = call(std::move(node));
    else return node;
  }
}

Parser::Node Parser::member(Node node) {
  const Token& dot = take();
  const Token& what = take();
  if (what.kind == Token::Kind::name) {
    Node result = make(Expression::Kind::attribute, dot, {&node});
    result->text = what.text;
    return result;
  }
  if (what.kind != Token::Kind::integer) fail(what, "expected name or number");
  Node index = make(Expression::Kind::constant, what);
  index->value = what.number;
  return make(Expression::Kind::item, dot, {&node, &index});
}

/// One part between brackets; a slice takes the subject with it.
Parser::Node Parser::subscript_part(const Token& bracket, Node& subject) {
  Node parts[3];
  auto ends = [&] { return current().is_sign("]") || current().is_sign(",") || current().is_sign(":"); };
  if (!current().is_sign(":")) {
    parts[0] = expression();
    if (!current().is_sign(":")) return std::move(parts[0]);
  }
  take();
  if (!ends()) parts[1] = expression();
  if (skip_sign(":") && !ends()) parts[2] = expression();
  if (!current().is_sign("]")) fail("a slice stands alone between brackets");
  return make(Expression::Kind::slice, bracket, {&subject, &parts[0], &parts[1], &parts[2]});
}

Parser::Node Parser::subscript(Node node) {
  const Token& bracket = take();
  Node several = make(Expression::Kind::tuple, bracket);
  while (!current().is_sign("]")) {
    if (!several->parts.empty()) expect_sign(",");
    several->parts.push_back(subscript_part(bracket, node));
    if (node) continue;
    if (several->parts.size() > 1) fail("a slice stands alone between brackets");
    expect_sign("]");
    return std::move(several->parts[0]);
  }
  expect_sign("]");
  if (several->parts.size() == 1) return make(Expression::Kind::item, bracket, {&node, &several->parts[0]});
  close(*several);
  return make(Expression::Kind::item, bracket, {&node, &several});
}

void Parser::argument(Arguments& out, const Token& open) {
  auto ensure = [&](bool condition) {
    if (!condition) fail(open, "invalid syntax for function call expression");
  };
  if (skip_sign("*")) {
    ensure(!out.spread && !out.spread_named);
    out.spread = expression();
  } else if (skip_sign("**")) {
    ensure(!out.spread_named);
    out.spread_named = expression();
  } else if (current().kind == Token::Kind::name && ahead().is_sign("=")) {
    ensure(!out.spread_named);
    std::string name = take().text;
    take();
    out.named.emplace_back(std::move(name), expression());
  } else {
    ensure(!out.spread && !out.spread_named && out.named.empty());
    out.positional.push_back(expression());
  }
}

Arguments Parser::arguments() {
  const Token& open = current();
  expect_sign("(");
  Arguments out;
  for (bool first = true; !current().is_sign(")"); first = false) {
    if (!first) expect_sign(",");
    if (current().is_sign(")")) break;
    argument(out, open);
  }
  expect_sign(")");
  return out;
}

Parser::Node Parser::call(Node node) {
  const Token& where = current();
  Node result = make(Expression::Kind::call, where, {&node});
  result->arguments = arguments();
  close(*result);
  return result;
}

Parser::Node Parser::filter(Node node, bool first) {
  while (first || current().is_sign("|")) {
    if (!first) take();
    first = false;
    const Token& where = current();
    std::string name = expect_identifier();
    while (skip_sign(".")) name += "." + expect_identifier();
    Node result = make(Expression::Kind::filter, where, {&node});
    if (current().is_sign("(")) result->arguments = arguments();
    result->filter = find_filter(name);
    if (!result->filter) unknown(where, "No filter named " + in_quotes(name) + ".");
    result->text = std::move(name);
    close(*result);
    node = std::move(result);
  }
  return node;
}

Parser::Node Parser::test(Node node) {
  const Token& where = take();
  const bool negated = skip_name("not");
  std::string name = expect_identifier();
  while (skip_sign(".")) name += "." + expect_identifier();
  Node result = make(Expression::Kind::test, where, {&node});
  const Token& next = current();
  const bool word =
      next.kind == Token::Kind::name && !next.is_name("else") && !next.is_name("or") && !next.is_name("and");
  const bool literal =
      next.kind == Token::Kind::text || next.kind == Token::Kind::integer || next.kind == Token::Kind::real;
  if (next.is_sign("(")) {
    result->arguments = arguments();
  } else if (word || literal || next.is_sign("[") || next.is_sign("{")) {
    if (next.is_name("is")) fail("You cannot chain multiple tests with is");
    result->arguments.positional.push_back(postfix(primary()));
  }
  result->predicate = find_predicate(name);
  if (!result->predicate) unknown(where, "No test named " + in_quotes(name) + ".");
  result->text = std::move(name);
  close(*result);
  return negated ? make(Expression::Kind::logical_not, where, {&result}) : std::move(result);
}

}  // namespace metal_candle::jinja
