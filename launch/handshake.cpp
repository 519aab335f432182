#include "launch/handshake.h"

#include <ATen/Version.h>
#include <link.h>
#include <torch/headeronly/version.h>

#include <bit>
#include <map>
#include <optional>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/text.h"
#include "launch/failure.h"
#include "launch/launcher.h"
#include "launch/version.h"
#include "parallel/comm/communicator.h"

namespace strata {
namespace handshake_detail {

int collect_library(dl_phdr_info* info, size_t, void* out) {
  const std::string path = info->dlpi_name;
  if (path.find("libstrata_") != std::string::npos)
    static_cast<std::vector<std::string>*>(out)->push_back(path);
  return 0;
}

// CRC over the program's and our libraries' files: different builds differ, wherever they are
// installed.
std::string binary_digest() {
  std::vector<std::string> files = {"/proc/self/exe"};
  dl_iterate_phdr(collect_library, &files);
  uint32_t crc = 0;
  for (const std::string& file : files) {
    const io::MappedFile mapped(file);
    crc = io::crc32c(mapped.data(), mapped.size(), crc);
  }
  return io::crc_text(crc);
}

// Longest-first separators are not needed: keys and values of facts hold neither tab nor newline.
std::string pack(const Facts& facts) {
  std::string out;
  for (const auto& [what, value] : facts) out += cat(what, '\t', value, '\n');
  return out;
}

Facts unpack(const std::string& text) {
  Facts out;
  for (const std::string& line : split(text, '\n')) {
    const size_t tab = line.find('\t');
    if (tab != std::string::npos) out.emplace_back(line.substr(0, tab), line.substr(tab + 1));
  }
  return out;
}

// "rank 3", "ranks 0-2, 5"
std::string ranks_text(const std::vector<int>& ranks) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i;
    while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1) ++end;
    parts.push_back(end == i ? cat(ranks[i]) : cat(ranks[i], '-', ranks[end]));
    i = end + 1;
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + join(parts);
}

std::string shortened(const std::optional<std::string>& value) {
  if (!value) return "nothing";
  return value->size() > 60 ? cat('"', value->substr(0, 57), "...\"") : cat('"', *value, '"');
}

// One "key = value" line without the line break characters that quoted values cannot hold anyway.
std::string one_line(std::string_view text) {
  std::string out(trim(text));
  for (char& c : out) {
    if (c == '\t' || c == '\n') c = ' ';
  }
  return out;
}

}  // namespace handshake_detail

Facts config_facts(const std::string& ini) {
  using handshake_detail::one_line;
  Facts facts;
  std::string section;
  for (const std::string& line : split(ini, '\n')) {
    const size_t equals = line.find('=');
    if (starts_with(line, "[")) {
      section = line.substr(1, line.find(']') - 1);
    } else if (equals != std::string::npos) {
      facts.emplace_back(cat(section, '.', one_line(line.substr(0, equals))),
                         one_line(line.substr(equals + 1)));
    }
  }
  return facts;
}

Facts binary_facts() {
  return {{"Strata version", kVersion},
          {"binary (CRC of the program and its libraries)", handshake_detail::binary_digest()},
          {"LibTorch version", TORCH_VERSION},
          {"byte order", std::endian::native == std::endian::little ? "little" : "big"}};
}

Facts environment_facts() {
  Facts facts;
  for (const auto& [name, value] : relevant_environment()) {
    facts.emplace_back("environment variable " + name, handshake_detail::one_line(value));
  }
  return facts;
}

std::string first_difference(const std::vector<Facts>& by_rank) {
  using namespace handshake_detail;
  std::vector<std::map<std::string, std::string>> tables;
  std::vector<std::string> order;  // rank 0's order, then whatever only others have
  for (const Facts& facts : by_rank) {
    tables.emplace_back(facts.begin(), facts.end());
    for (const auto& [what, value] : facts) {
      if (tables[0].count(what) == 0 || &facts == &by_rank[0]) order.push_back(what);
    }
  }
  for (const std::string& what : order) {
    std::map<std::optional<std::string>, std::vector<int>> groups;
    for (size_t rank = 0; rank < tables.size(); ++rank) {
      const auto found = tables[rank].find(what);
      groups[found == tables[rank].end() ? std::nullopt : std::optional(found->second)].push_back(
          static_cast<int>(rank));
    }
    if (groups.size() == 1) continue;
    std::vector<std::pair<std::vector<int>, std::optional<std::string>>> sorted;
    for (auto& [value, ranks] : groups) sorted.emplace_back(ranks, value);
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::string> parts;
    for (const auto& [ranks, value] : sorted) {
      parts.push_back(
          cat(ranks_text(ranks), ranks.size() == 1 ? " has " : " have ", shortened(value)));
    }
    return cat(what, " differs between ranks: ", join(parts, "; "), ".");
  }
  return "";
}

void check_same_everywhere(Communicator& job, const Facts& facts) {
  const std::string packed = handshake_detail::pack(facts);
  const std::vector<std::string> digests = job.all_gather_bytes(io::crc_text(io::crc32c(packed)));
  bool equal = true;
  for (const std::string& digest : digests) equal = equal && digest == digests[0];
  if (equal) return;
  std::vector<Facts> by_rank;
  for (const std::string& text : job.all_gather_bytes(packed))
    by_rank.push_back(handshake_detail::unpack(text));
  throw_agreed(DesyncError(cat(first_difference(by_rank), " All ranks must be started alike.")));
}

}  // namespace strata
