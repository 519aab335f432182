#pragma once
// JSON from files that may be damaged or hostile: nesting is bounded (the library's printer and
// some users recurse), every failure becomes a CheckpointError with the file's name. For .cpp files
// only.
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace strata::io {

// Parses `text`; `what` names the file in messages. Throws CheckpointError. Duplicate keys of one
// object are refused.
nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth = 32);

}  // namespace strata::io
