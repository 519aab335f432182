#include "parallel/nn/auto_split_report.h"

#include <algorithm>
#include <map>

#include "core/text.h"
#include "parallel/nn/model_spec.h"

namespace strata {
namespace auto_split_report_detail {

std::string row(const std::string& place, const std::string& weight, const std::string& size,
                const std::string& cut, const std::string& why) {
  std::string out;
  const auto cell = [&](const std::string& text, size_t width) {
    out += text;
    out.append(text.size() < width ? width - text.size() : 1, ' ');
  };
  cell(place, 30);
  cell(weight, 20);
  cell(size, 16);
  cell(cut, 12);
  return out + why + '\n';
}

std::string cut_of(const ShardSpec& shard) {
  if (!shard.cut()) return "whole";
  if (shard.ragged) return "vocabulary";
  return shard.dim == 0 ? "column" : "row";
}

// "  forward all_reduce of 64 (exit), backward all_reduce of 64 (entry): 256 bytes per token"
std::string collectives_line(const std::vector<RegionCollective>& collectives, int64_t value_bytes,
                             int64_t more_bytes = 0, const std::string& more = {}) {
  if (collectives.empty()) return "    no collectives\n";
  std::vector<std::string> parts;
  int64_t bytes = more_bytes;
  for (const RegionCollective& c : collectives) {
    parts.push_back(cat(c.backward ? "backward" : "forward", " all_reduce of ", c.features, " (",
                        c.where, ")"));
    bytes += c.features * value_bytes;
  }
  if (!more.empty()) parts.push_back(more);
  return cat("    ", join(parts), ": ", bytes, " bytes per token\n");
}

std::string whole_work_line(const std::vector<LinearNode>& nodes, const RegionSplit& split) {
  double flops = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (split.linears[i].cut == LinearCut::Whole)
      flops += 2.0 * static_cast<double>(nodes[i].in) * static_cast<double>(nodes[i].out);
  }
  if (flops == 0) return {};
  return cat("    on every rank in full: ", static_cast<int64_t>(flops),
             " FLOPs per token of the forward pass\n");
}

// The layer under tp, without storage.
std::shared_ptr<Layer> shape_only(const ModelSpec& spec, int layer, Communicator& tp) {
  ParallelLayout::Parts parts;
  parts.strategy.tp = tp.size();
  parts.tp = &tp;
  parts.device = at::kMeta;
  return spec.make_layer(layer, ParallelLayout(parts));
}

class Reporter {
 public:
  Reporter(const ModelSpec& spec, int tp, int64_t value_bytes)
      : spec_(spec), tp_(make_null_communicator(tp)), value_bytes_(value_bytes) {}

  std::string text() {
    std::string out = row("layer", "weight", "size", "cut", "why");
    for (int layer = 0; layer < spec_.layer_count();) {
      int next = layer + 1;
      while (next < spec_.layer_count() && spec_.cost_class(next) == spec_.cost_class(layer))
        ++next;
      out += next == layer + 1
                 ? cat(spec_.layer_name(layer), '\n')
                 : cat(spec_.layer_name(layer), " and ", next - layer - 1, " more like it\n");
      out += describe(layer);
      layer = next;
    }
    return out;
  }

 private:
  std::string describe(int layer) {
    const auto module = shape_only(spec_, layer, *tp_);
    std::string out;
    std::map<std::string, const ParamMeta*> metas;
    for (const auto& owned : module->collect("")) {
      const ParamMeta& meta = owned.parameter->meta;
      metas[meta.name] = &meta;
      if (meta.shard.ragged) out += vocabulary(layer, meta);
    }
    for (const Region* region : module->regions()) out += describe(*region, metas);
    return out;
  }

  std::string vocabulary(int layer, const ParamMeta& meta) {
    const bool head = layer == spec_.layer_count() - 1;
    const int64_t width = meta.logical[1];
    std::string out = row("", meta.name, cat(width, " x ", meta.logical[0]), cut_of(meta.shard),
                          "rows of the vocabulary");
    if (tp_->size() == 1) return out;
    if (!head) return out + collectives_line({{false, "exit", width}}, value_bytes_);
    // Row maxima, then three sums, in fp32 (head.h).
    return out + collectives_line({{true, "entry", width}}, value_bytes_, 16,
                                  "forward all_reduces of 4 fp32 values (loss)");
  }

  std::string describe(const Region& region, const std::map<std::string, const ParamMeta*>& metas) {
    std::string out;
    const auto& nodes = region.linears();
    const RegionSplit* split = region.split();
    for (size_t i = 0; i < nodes.size(); ++i) {
      const std::string name = region.full_name().empty()
                                   ? cat(nodes[i].name, ".weight")
                                   : cat(region.full_name(), ".", nodes[i].name, ".weight");
      out += row(i == 0 ? "  " + region.full_name() : "", nodes[i].name,
                 cat(nodes[i].in, " -> ", nodes[i].out), cut_of(metas.at(name)->shard),
                 split ? split->linears[i].why : "declared");
    }
    if (nodes.empty()) out += cat("  ", region.full_name(), '\n');
    if (tp_->size() == 1) return out;
    if (split == nullptr) {
      // Declared: one entry and one exit of the same width, by the contract of a region.
      if (nodes.empty()) return out;
      return out +
             collectives_line({{true, "entry", nodes[0].in}, {false, "exit", nodes.back().out}},
                              value_bytes_);
    }
    out += collectives_line(split->collectives, value_bytes_) + whole_work_line(nodes, *split);
    for (const std::string& note : split->notes) out += cat("    note: ", note, '\n');
    return out;
  }

  const ModelSpec& spec_;
  std::unique_ptr<Communicator> tp_;
  int64_t value_bytes_;
};

}  // namespace auto_split_report_detail

std::string auto_split_report(const ModelSpec& spec, int tp, int64_t value_bytes) {
  return auto_split_report_detail::Reporter(spec, tp, value_bytes).text();
}

std::vector<std::string> auto_split_notes(const ModelSpec& spec, const Plan& plan) {
  struct Note {
    std::string first, text;  // region within its layer, and what it says
    std::string where;        // full name of the first
    int more = 0;
  };
  std::vector<Note> notes;
  for (int layer = 0; layer < spec.layer_count(); ++layer) {
    const int tp = plan.layers[static_cast<size_t>(layer)].tp;
    if (tp == 1) continue;
    const auto group = make_null_communicator(tp);
    const auto module = auto_split_report_detail::shape_only(spec, layer, *group);
    module->collect("");
    for (const Region* region : module->regions()) {
      if (region->split() == nullptr) continue;
      const std::string text = join(region->split()->notes, "; ");
      if (text.empty()) continue;
      const auto same = [&](const Note& n) {
        return n.first == region->full_name() && n.text == text;
      };
      const auto it = std::find_if(notes.begin(), notes.end(), same);
      if (it != notes.end()) {
        ++it->more;
      } else {
        notes.push_back(
            {region->full_name(), text, cat(spec.parameter_prefix(layer), region->full_name())});
      }
    }
  }
  std::vector<std::string> out;
  for (const Note& note : notes)
    out.push_back(
        cat(note.where, note.more > 0 ? cat(" and ", note.more, " like it") : "", ": ", note.text));
  return out;
}

}  // namespace strata
