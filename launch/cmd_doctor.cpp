// strata doctor [RUN_DIR]
#include <ATen/ops/full.h>
#include <sys/statvfs.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/device.h"
#include "launch/failure.h"
#include "launch/runtime.h"
#include "launch/version.h"

namespace strata {
namespace cmd_doctor_detail {

std::string row(const std::string& what, const std::string& value) {
  std::string name = what;
  name.resize(16, ' ');
  return cat("  ", name, value, '\n');
}

std::string memory_text() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  double kib = 0, total = 0, available = 0;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemTotal:") total = kib * 1024;
    if (key == "MemAvailable:") available = kib * 1024;
  }
  return cat(bytes_text(total), ", ", bytes_text(available), " available");
}

std::string space_text(const char* folder) {
  struct statvfs info {};
  if (::statvfs(folder, &info) != 0) return cat("not there");
  return cat(bytes_text(static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize)),
             " free");
}

// 1 MiB with a known answer over all ranks.
std::string collective_text(Communicator& job) {
  constexpr int64_t kElements = 1 << 18;
  const Tensor ones = at::full({kElements}, 1.0, at::TensorOptions().dtype(at::kFloat));
  job.all_reduce(ones, ReduceOp::Sum, {0, SiteOp::Test}).wait_host();
  const double sum = ones.sum().item<double>();
  const double expected = static_cast<double>(kElements) * job.size();
  if (sum != expected) {
    throw CommError(cat("An all_reduce of 1 MiB over ", job.size(), " ranks gave ",
                        number_text(sum), ", expected ", number_text(expected), "."));
  }
  return cat("good (1 MiB over ", job.size(), job.size() == 1 ? " rank)" : " ranks)");
}

int machine() {
  RuntimeOptions options;
  options.log.level = "warn";
  Runtime runtime(options);
  return runtime.guard([&] {
    const std::string collective = collective_text(runtime.job());
    if (!runtime.first()) return 0;
    const MpiProcess& process = runtime.process();
    std::string backends = "self";
    if (mpi_built()) backends = "mpi, " + backends;
    std::cout << "Strata " << kVersion << '\n'
              << row("LibTorch", TORCH_VERSION) << row("MPI", mpi_library())
              << row("MPI threads", !mpi_running()       ? "MPI is not running (no mpirun)"
                                    : process.concurrent ? "MPI_THREAD_MULTIPLE"
                                                         : "MPI_THREAD_SERIALIZED")
              << row("backends", backends)
              << row("backend in use", std::string(runtime.job().backend()))
              << row("ranks", cat(runtime.world(), ", ", process.local_size, " on this node"))
              << row("cores", cat(std::thread::hardware_concurrency(), ", ", runtime.threads(),
                                  " threads a rank"))
              << row("GPUs", cat(cuda_device_count())) << row("memory", memory_text())
              << row("/dev/shm", space_text("/dev/shm")) << row("this folder", space_text("."))
              << row("collective", collective);
    return 0;
  });
}

std::string status_text(const std::filesystem::path& run_dir) {
  const std::filesystem::path file = run_dir / "status.json";
  if (!std::filesystem::exists(file))
    return row("status", "no status.json: it has not started training");
  const auto json = nlohmann::json::parse(io::read_text(file), nullptr, false);
  if (!json.is_object()) throw DataError(cat(file.string(), " is not a JSON object."));
  const auto text = [&](const char* key) {
    return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : "";
  };
  const auto number = [&](const char* key) {
    return json.contains(key) && json[key].is_number_integer() ? json[key].get<int64_t>() : -1;
  };
  std::string out =
      row("state", cat(text("state"), " since ", text("time"), " (process ", number("pid"), " on ",
                       text("host"), ")")) +
      row("step", cat(number("step"), " of ", number("steps"), " when that was written"));
  if (!text("checkpoint").empty()) out += row("checkpoint", text("checkpoint"));
  if (number("exit_code") >= 0) out += row("exit code", cat(number("exit_code")));
  if (!text("message").empty()) out += row("message", text("message"));
  return out;
}

std::string last_metrics(const std::filesystem::path& run_dir) {
  const std::filesystem::path file = run_dir / "metrics.jsonl";
  if (!std::filesystem::exists(file)) return "";
  const std::string text = io::read_text(file);
  const size_t end = text.find_last_not_of('\n');
  if (end == std::string::npos) return "";
  const size_t begin = text.rfind('\n', end);
  return row("last metrics", text.substr(begin == std::string::npos ? 0 : begin + 1,
                                         end - (begin == std::string::npos ? 0 : begin + 1) + 1));
}

std::vector<FlightRecord> read_flights(const std::filesystem::path& run_dir) {
  std::vector<FlightRecord> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir / "flight", error)) {
    if (entry.path().extension() == ".fr") out.push_back(read_flight_record(entry.path()));
  }
  std::sort(out.begin(), out.end(),
            [](const FlightRecord& a, const FlightRecord& b) { return a.rank < b.rank; });
  return out;
}

int run_state(const std::filesystem::path& run_dir) {
  if (!std::filesystem::is_directory(run_dir)) {
    throw DataError(cat(run_dir.string(), " is not a folder. Give the run.dir of a run."));
  }
  std::cout << run_dir.string() << '\n' << status_text(run_dir) << last_metrics(run_dir);
  const std::vector<FlightRecord> ranks = read_flights(run_dir);
  bool waiting = false;
  for (const FlightRecord& rank : ranks) {
    const OpRecord* last = rank.records.empty() ? nullptr : &rank.records.back();
    waiting = waiting || (last != nullptr && !last->done);
    std::string text = cat(rank.phase, ", step ", rank.step, ", heartbeat ",
                           duration_text(rank.heartbeat_age_s), " ago");
    if (last != nullptr) {
      text += cat("; last ", last->op, " #", last->sequence, " on ", last->communicator,
                  last->site.empty() ? "" : cat(" (", last->site, ")"), " ",
                  last->done ? "done" : cat("waiting for ", duration_text(last->age_s)));
    }
    std::cout << row(cat("rank ", rank.rank), text);
  }
  if (waiting && ranks.size() > 1) std::cout << analyse_hang(ranks) << '\n';
  const std::filesystem::path report = run_dir / "hang" / "report.txt";
  if (std::filesystem::exists(report)) std::cout << "\nhang/report.txt:\n" << io::read_text(report);
  return 0;
}

}  // namespace cmd_doctor_detail

int cmd_doctor(const Arguments& arguments) {
  CommandLine line(
      "doctor", "[RUN_DIR]",
      "Without RUN_DIR: versions, cores, memory, backends and a small collective over all ranks "
      "(try it under\n"
      "mpirun). With RUN_DIR: how that run is doing, also while it runs; it is not touched.");
  line.positional("RUN_DIR", 0, 1);
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  return line.words().empty() ? cmd_doctor_detail::machine()
                              : cmd_doctor_detail::run_state(line.words()[0]);
}

}  // namespace strata
