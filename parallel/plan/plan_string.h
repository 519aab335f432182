#pragma once
// A plan in one line, for command lines and logs:
//
//   N64 p4v2 m16 interleaved gbs256 cut3,7,11,15,19,23,27 | 0-23: t4 d4 z1 | 24-31: t4 q0 d4 z1/2
//   rf
//     | head: t4 d4
//
//   plan  := "N" ranks " p" stages ["v" chunks] " m" micro-batches " " schedule " gbs" rows
//            [" cut" int{","int}] {" | " range ": " strat} [" | emb: " strat] [" | head: " strat]
//   range := int ["-" int]                             blocks, inclusive
//   strat := "t" tp ["q0"] "d" dp ["z" zero ["/" shards]] ["r" ("s"|"f")]
//
// cut: the first block of each later virtual stage (the number of blocks: the head); without it
// stages are cut as even_stages() says. q0: no sequence parallelism, which is the rule with t > 1
// (and has no effect, and no place here, with t 1). rs, rf: selective or full recomputation. emb
// and head: default as the first and the last block. Blanks inside strat are ignored.
#include <string>
#include <string_view>

#include "parallel/plan/plan.h"

namespace strata {

// parse_plan_string(plan_string(p)) == p for every plan that check_plan accepts and whose layers
// with tp = 1 do not ask for sequence parallelism; plan_string(parse_plan_string(s)) == s for
// strings made by plan_string.
std::string plan_string(const Plan& plan);

// Throws ConfigError with everything that is wrong; `name` begins the messages.
Plan parse_plan_string(std::string_view text, const std::string& name = "plan");

// Begins like a plan string and not like a file name: "N8 p2 ...".
bool looks_like_plan_string(std::string_view text);

}  // namespace strata
