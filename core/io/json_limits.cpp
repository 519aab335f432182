#include "core/io/json_limits.h"

#include <set>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace strata::io {

nlohmann::json parse_json(std::string_view text, const std::string& what, int max_depth) {
  using nlohmann::json;
  std::vector<std::set<std::string>> keys;  // of the objects that are open now
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (depth >= max_depth) {
          throw CheckpointError(cat(what, ": JSON is nested deeper than ", max_depth, " levels"));
        }
        keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get_ref<const std::string&>()).second) {
          throw CheckpointError(
              cat(what, ": key ",
                  json(parsed).dump(-1, ' ', true, json::error_handler_t::replace).substr(0, 200),
                  " appears twice in one object"));
        }
        break;
      case json::parse_event_t::value:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    throw CheckpointError(
        cat(what, ": not valid JSON (", std::string(error.what()).substr(0, 300), ")"));
  }
}

}  // namespace strata::io
