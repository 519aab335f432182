#pragma once
// Compares the ranks that WeLore selects with those of a file that says what its authors' program
// selected: s.<linear> (singular values) and in the header, as JSON,
//
//   expected  {"<tau>": {"<linear>": values pruned}}
//   notes     may have "overall reduction" {"<tau>": part of all values pruned} and "LRC for
//             min_ratio" {"<min_ratio>": {"<tau>": [linears of low rank]}}
#include <string>

#include "launch/parity_report.h"

namespace strata {

// Whether the file has spectra rather than updates. Throws DataError when it cannot be read.
bool has_spectra(const std::string& path);

// Adds a line per threshold: the largest difference in a count, in the part pruned, and the number
// of linears that are of low rank in one selection only; each is 0 for equal selections. Throws
// DataError naming everything that the file lacks.
void verify_welore_ranks(const std::string& path, ParityReport& report);

}  // namespace strata
