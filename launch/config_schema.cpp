// The whole schema as text: what `strata config schema` prints.
#include "core/config/writer.h"
#include "core/text.h"
#include "launch/run_config.h"

namespace strata {
namespace config_schema_detail {

template <class Table>
std::string product_section(const Table& table, const std::string& name, const char* section,
                            const std::string& help, ConfigFormat format) {
  ConfigWriter writer(format);
  writer.visitor().begin_section(section, help);
  table.make(name, writer.visitor());
  writer.visitor().end_section();
  return writer.text();
}

std::string settings(ConfigFormat format, const ExtraFamilies& families) {
  ConfigWriter writer(format);
  RunConfig config;
  config.families = families;
  config.visit_settings(writer.visitor());
  return writer.text();
}

}  // namespace config_schema_detail

std::string config_markdown(const ExtraFamilies& families) {
  using namespace config_schema_detail;
  std::string out =
      "# Run files\n\n"
      "Printed by `strata config schema --markdown`; a test compares this page with that "
      "output.\n\n"
      "A run file has `[section]` lines with `key = value` below, comments after `#` or `;`. Every "
      "key can be given on "
      "the command line as `--section.key=value`, which wins over the file. Integers take `k`, "
      "`M`, `G`, `KiB`, `MiB`, "
      "`GiB`; times take `s`, `m`, `h`, `d`.\n\n";
  out += settings(ConfigFormat::Markdown, families);
  const ModelRegistry models = model_registry({}, families);
  for (const std::string& name : models.names()) {
    out += "\n" + product_section(models, name, "model", cat("Keys of `model.name = ", name, "`."),
                                  ConfigFormat::Markdown);
  }
  for (const std::string& name : rule_registry().names()) {
    out +=
        "\n" + product_section(rule_registry(), name, "optim",
                               cat("Keys of `optim.name = ", name, "`."), ConfigFormat::Markdown);
  }
  return out;
}

std::string config_json(const ExtraFamilies& families) {
  using namespace config_schema_detail;
  const auto products = [](const auto& table, const char* section) {
    std::vector<std::string> parts;
    for (const std::string& name : table.names()) {
      parts.push_back(cat(
          '"', name, "\": ", trim(product_section(table, name, section, "", ConfigFormat::Json))));
    }
    return "{" + join(parts, ",\n") + "}";
  };
  return cat("{\"settings\": ", trim(settings(ConfigFormat::Json, families)),
             ",\n\"model\": ", products(model_registry({}, families), "model"),
             ",\n\"optim\": ", products(rule_registry(), "optim"), "}\n");
}

}  // namespace strata
