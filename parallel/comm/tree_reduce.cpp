#include "parallel/comm/tree_reduce.h"

#include <c10/util/Half.h>

#include <bit>
#include <cstring>
#include <type_traits>

#include "core/error.h"
#include "core/text.h"

// One copy of the kernels per instruction set, chosen when the library is loaded.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define STRATA_TREE_REDUCE_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define STRATA_TREE_REDUCE_CLONES
#endif
#define STRATA_TREE_REDUCE_INLINE inline __attribute__((always_inline))

namespace strata {
namespace tree_reduce_detail {

// Loops below run over whole blocks of a constant size through local arrays, so that the compiler
// turns them into vector code without checks for overlap.
constexpr int kBlock = 128;
constexpr int kLevels = 32;

template <class T>
struct Plain {
  using Stored = T;
  using Wide = T;
  static STRATA_TREE_REDUCE_INLINE T load(T x) { return x; }
  static STRATA_TREE_REDUCE_INLINE T store(T x) { return x; }
};

struct Bfloat16 {
  using Stored = uint16_t;
  using Wide = float;
  static STRATA_TREE_REDUCE_INLINE float load(uint16_t x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
  }
  // Round to nearest, ties to even; every NaN becomes 0x7fc0 as in LibTorch.
  static STRATA_TREE_REDUCE_INLINE uint16_t store(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
  }
};

struct Half {
  using Stored = uint16_t;
  using Wide = float;
  static STRATA_TREE_REDUCE_INLINE float load(uint16_t x) {
    return c10::detail::fp16_ieee_to_fp32_value(x);
  }
  static STRATA_TREE_REDUCE_INLINE uint16_t store(float x) {
    return c10::detail::fp16_ieee_from_fp32_value(x);
  }
};

struct Sum {
  template <class T>
  static STRATA_TREE_REDUCE_INLINE T apply(T a, T b) {
    return static_cast<T>(a + b);
  }
};
// Integers wrap around like everywhere else, without undefined behaviour.
template <class U>
struct WrappingSum {
  template <class T>
  static STRATA_TREE_REDUCE_INLINE T apply(T a, T b) {
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
  }
};
struct Min {
  template <class T>
  static STRATA_TREE_REDUCE_INLINE T apply(T a, T b) {
    return a < b || a != a ? a : b;
  }
};
struct Max {
  template <class T>
  static STRATA_TREE_REDUCE_INLINE T apply(T a, T b) {
    return a > b || a != a ? a : b;
  }
};
struct Or {
  static STRATA_TREE_REDUCE_INLINE uint8_t apply(uint8_t a, uint8_t b) {
    return static_cast<uint8_t>(a | b);
  }
};
struct And {
  static STRATA_TREE_REDUCE_INLINE uint8_t apply(uint8_t a, uint8_t b) {
    return static_cast<uint8_t>(a & b);
  }
};

// Size elements at position i. Partial sums wait on a stack like the digits of a binary counter:
// two of the same weight are merged at once, what is left is merged from the right.
template <class Type, class Op, int Size>
STRATA_TREE_REDUCE_INLINE void block_any(const void* const* from, int n, int64_t i,
                                         typename Type::Stored (&result)[Size]) {
  using Wide = typename Type::Wide;
  Wide stack[kLevels][Size];
  const auto* first = static_cast<const typename Type::Stored*>(from[0]) + i;
  for (int k = 0; k < Size; ++k) stack[0][k] = Type::load(first[k]);
  int top = 1;
  for (int r = 1; r < n; ++r) {
    const auto* in = static_cast<const typename Type::Stored*>(from[r]) + i;
    for (int k = 0; k < Size; ++k) stack[top][k] = Type::load(in[k]);
    ++top;
    for (unsigned merges = static_cast<unsigned>(r + 1); (merges & 1u) == 0; merges >>= 1) {
      --top;
      for (int k = 0; k < Size; ++k)
        stack[top - 1][k] = Op::apply(stack[top - 1][k], stack[top][k]);
    }
  }
  for (; top > 1; --top) {
    for (int k = 0; k < Size; ++k)
      stack[top - 2][k] = Op::apply(stack[top - 2][k], stack[top - 1][k]);
  }
  for (int k = 0; k < Size; ++k) result[k] = Type::store(stack[0][k]);
}

// Two 16-bit values in one 32-bit word, first in the low half: both are widened, combined and
// rounded without moving lanes, which takes half the time of the plain loop.
STRATA_TREE_REDUCE_INLINE float low_half(uint32_t word) { return std::bit_cast<float>(word << 16); }
STRATA_TREE_REDUCE_INLINE float high_half(uint32_t word) {
  return std::bit_cast<float>(word & 0xffff0000u);
}
STRATA_TREE_REDUCE_INLINE uint32_t rounded_in_high_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : rounded;
}
STRATA_TREE_REDUCE_INLINE uint32_t joined(float low, float high) {
  return (rounded_in_high_half(low) >> 16) | (rounded_in_high_half(high) & 0xffff0000u);
}

template <class Op, int Size>
STRATA_TREE_REDUCE_INLINE void block_bfloat16(const void* const* from, int n, int64_t i,
                                              uint16_t (&result)[Size]) {
  static_assert(std::endian::native == std::endian::little && Size % 2 == 0);
  constexpr int kWords = Size / 2;
  uint32_t a[kWords], b[kWords], out[kWords];
  const auto read = [&](int r, uint32_t(&words)[kWords]) {
    std::memcpy(words, static_cast<const uint16_t*>(from[r]) + i, sizeof(words));
  };
  read(0, a);
  read(1, b);
  if (n == 2) {
    for (int k = 0; k < kWords; ++k) {
      out[k] = joined(Op::apply(low_half(a[k]), low_half(b[k])),
                      Op::apply(high_half(a[k]), high_half(b[k])));
    }
  } else {
    uint32_t c[kWords], d[kWords];
    read(2, c);
    read(3, d);
    for (int k = 0; k < kWords; ++k) {
      out[k] = joined(Op::apply(Op::apply(low_half(a[k]), low_half(b[k])),
                                Op::apply(low_half(c[k]), low_half(d[k]))),
                      Op::apply(Op::apply(high_half(a[k]), high_half(b[k])),
                                Op::apply(high_half(c[k]), high_half(d[k]))));
    }
  }
  std::memcpy(result, out, sizeof(result));
}

template <class Type, class Op, int Size>
STRATA_TREE_REDUCE_INLINE void block(const void* const* from, int n, int64_t i,
                                     typename Type::Stored (&result)[Size]) {
  using Stored = typename Type::Stored;
  if constexpr (std::is_same_v<Type, Bfloat16>) {
    if (n == 2 || n == 4) return block_bfloat16<Op, Size>(from, n, i, result);
  }
  if (n == 2) {
    const Stored* a = static_cast<const Stored*>(from[0]) + i;
    const Stored* b = static_cast<const Stored*>(from[1]) + i;
    for (int k = 0; k < Size; ++k)
      result[k] = Type::store(Op::apply(Type::load(a[k]), Type::load(b[k])));
  } else if (n == 4) {
    const Stored* a = static_cast<const Stored*>(from[0]) + i;
    const Stored* b = static_cast<const Stored*>(from[1]) + i;
    const Stored* c = static_cast<const Stored*>(from[2]) + i;
    const Stored* d = static_cast<const Stored*>(from[3]) + i;
    for (int k = 0; k < Size; ++k) {
      result[k] = Type::store(Op::apply(Op::apply(Type::load(a[k]), Type::load(b[k])),
                                        Op::apply(Type::load(c[k]), Type::load(d[k]))));
    }
  } else {
    block_any<Type, Op, Size>(from, n, i, result);
  }
}

template <class Type, class Op>
STRATA_TREE_REDUCE_INLINE void run(const void* const* from, int n, void* const* to, int m,
                                   int64_t count) {
  using Stored = typename Type::Stored;
  Stored result[kBlock];
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    block<Type, Op, kBlock>(from, n, i, result);
    for (int k = 0; k < m; ++k)
      std::memcpy(static_cast<Stored*>(to[k]) + i, result, sizeof(result));
  }
  for (; i < count; ++i) {
    Stored one[1];
    block_any<Type, Op, 1>(from, n, i, one);
    for (int k = 0; k < m; ++k) static_cast<Stored*>(to[k])[i] = one[0];
  }
}

template <class Type, class SumOp>
STRATA_TREE_REDUCE_INLINE void run(ReduceOp op, const void* const* from, int n, void* const* to,
                                   int m, int64_t count) {
  switch (op) {
    case ReduceOp::Sum:
      return run<Type, SumOp>(from, n, to, m, count);
    case ReduceOp::Min:
      return run<Type, Min>(from, n, to, m, count);
    case ReduceOp::Max:
      return run<Type, Max>(from, n, to, m, count);
  }
}

STRATA_TREE_REDUCE_CLONES
void run_double(ReduceOp op, const void* const* from, int n, void* const* to, int m,
                int64_t count) {
  run<Plain<double>, Sum>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_float(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  run<Plain<float>, Sum>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_bfloat16(ReduceOp op, const void* const* from, int n, void* const* to, int m,
                  int64_t count) {
  run<Bfloat16, Sum>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_half(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  run<Half, Sum>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_int64(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  run<Plain<int64_t>, WrappingSum<uint64_t>>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_int32(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  run<Plain<int32_t>, WrappingSum<uint32_t>>(op, from, n, to, m, count);
}
STRATA_TREE_REDUCE_CLONES
void run_uint8(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  run<Plain<uint8_t>, Sum>(op, from, n, to, m, count);
}
void run_bool(ReduceOp op, const void* const* from, int n, void* const* to, int m, int64_t count) {
  if (op == ReduceOp::Min) {
    run<Plain<uint8_t>, And>(from, n, to, m, count);
  } else {
    run<Plain<uint8_t>, Or>(from, n, to, m, count);
  }
}

}  // namespace tree_reduce_detail

void tree_reduce(at::ScalarType dtype, ReduceOp op, const void* const* from, int n, void* const* to,
                 int m, int64_t count) {
  switch (dtype) {
    case at::ScalarType::Double:
      return tree_reduce_detail::run_double(op, from, n, to, m, count);
    case at::ScalarType::Float:
      return tree_reduce_detail::run_float(op, from, n, to, m, count);
    case at::ScalarType::BFloat16:
      return tree_reduce_detail::run_bfloat16(op, from, n, to, m, count);
    case at::ScalarType::Half:
      return tree_reduce_detail::run_half(op, from, n, to, m, count);
    case at::ScalarType::Long:
      return tree_reduce_detail::run_int64(op, from, n, to, m, count);
    case at::ScalarType::Int:
      return tree_reduce_detail::run_int32(op, from, n, to, m, count);
    case at::ScalarType::Byte:
      return tree_reduce_detail::run_uint8(op, from, n, to, m, count);
    case at::ScalarType::Bool:
      return tree_reduce_detail::run_bool(op, from, n, to, m, count);
    default:
      break;
  }
  check_failed("reducible dtype", __FILE__, __LINE__, cat("tree_reduce of ", dtype_name(dtype)));
}

}  // namespace strata

#undef STRATA_TREE_REDUCE_CLONES
#undef STRATA_TREE_REDUCE_INLINE
