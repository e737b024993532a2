// Expressions for names of modules, as adapter_config.json has them: Python's, for PEFT matches by Python's `re`.
#pragma once

#include <string>
#include <string_view>

namespace metal_candle::lora {

/// Throws UserError for what is no expression.
void check_expression(const std::string& expression);
/// Whether the whole name is a match, as `re.fullmatch`. Throws UserError also where finding out takes too long:
/// expressions come from files, and (a+)+ must not take forever.
bool matches(const std::string& expression, std::string_view name);

}  // namespace metal_candle::lora
