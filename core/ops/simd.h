#pragma once
// Vector registers for the CPU kernels of this folder, written with the compiler's vector types:
// one source runs with AVX-512, AVX2 or the baseline instructions, chosen while running. Values of
// type S (float, double, BFloat16) are widened to the accumulator type A (float, double) in
// registers.
//
// A kernel is a struct with a member template run<Bytes>(arguments...), Bytes being the register
// width; it and all it calls are always_inline so that the code takes the instruction set of the
// caller. Elements that do not fill a register go through the same instructions padded with zeros:
// the result of an element never depends on where in a tensor it lies.
#include <c10/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#pragma GCC diagnostic ignored \
    "-Wpsabi"  // every function below that takes or returns registers is inlined

namespace strata::ops::simd {

template <class T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class A, int Bytes>
using Vec = typename VectorOf<A, Bytes / static_cast<int>(sizeof(A))>::type;

template <class V>
using Scalar = std::remove_cvref_t<decltype(std::declval<V&>()[0])>;
template <class V>
inline constexpr int kLanes = static_cast<int>(sizeof(V) / sizeof(Scalar<V>));

template <class To, class From>
[[gnu::always_inline]] inline To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class V>
[[gnu::always_inline]] inline V broadcast(Scalar<V> value) {
  return value - V{};
}

// The value at p in every lane. The compiler would build wide registers from a scalar lane by lane.
template <class V>
[[gnu::always_inline]] inline V broadcast_at(const Scalar<V>* p) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) >= 32) {
    V v;
    if constexpr (sizeof(Scalar<V>) == 4) {
      asm("vbroadcastss %1, %0" : "=v"(v) : "m"(*p));
    } else {
      asm("vbroadcastsd %1, %0" : "=v"(v) : "m"(*p));
    }
    return v;
  }
#endif
  return broadcast<V>(*p);
}

template <class V, class S>
[[gnu::always_inline]] inline V load(const S* p) {
  if constexpr (std::is_same_v<S, Scalar<V>>) {
    V v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
  } else if constexpr (std::is_integral_v<S>) {
    typename VectorOf<S, kLanes<V>>::type whole;
    __builtin_memcpy(&whole, p, sizeof(whole));
    return __builtin_convertvector(whole, V);
  } else {
    static_assert(std::is_same_v<S, c10::BFloat16> && std::is_same_v<Scalar<V>, float>);
    using Word = typename VectorOf<uint32_t, kLanes<V>>::type;
    Word word;
#if defined(__x86_64__)
    if constexpr (kLanes<V> == 16) {  // the compiler would build this one instruction from five
      asm("vpmovzxwd %1, %0" : "=v"(word) : "m"(*reinterpret_cast<const char(*)[32]>(p)));
      return bits<V>(word << 16);
    }
#endif
    typename VectorOf<uint16_t, kLanes<V>>::type half;
    __builtin_memcpy(&half, p, sizeof(half));
    word = __builtin_convertvector(half, Word);
    return bits<V>(word << 16);
  }
}

// bfloat16: to nearest even, not-a-number stays so. Integers: towards zero, values that fit.
template <class V, class S>
[[gnu::always_inline]] inline void store(S* p, const V& v) {
  if constexpr (std::is_same_v<S, Scalar<V>>) {
    __builtin_memcpy(p, &v, sizeof(v));
  } else if constexpr (std::is_integral_v<S>) {
    const auto whole = __builtin_convertvector(v, typename VectorOf<S, kLanes<V>>::type);
    __builtin_memcpy(p, &whole, sizeof(whole));
  } else {
    static_assert(std::is_same_v<S, c10::BFloat16> && std::is_same_v<Scalar<V>, float>);
    using Word = typename VectorOf<uint32_t, kLanes<V>>::type;
    using Half = typename VectorOf<uint16_t, kLanes<V>>::type;
    const Word w = bits<Word>(v);
    Word rounded = w + 0x7fffu + ((w >> 16) & 1u);
    rounded = v == v ? rounded : Word{} + 0x7fc00000u;
    const Half half = __builtin_convertvector(static_cast<Word>(rounded >> 16), Half);
    __builtin_memcpy(p, &half, sizeof(half));
  }
}

// The first n < lanes elements; the rest is zero (load) or left alone (store).
template <class V, class S>
[[gnu::always_inline]] inline V load_part(const S* p, int64_t n) {
  S padded[kLanes<V>] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n) * sizeof(S));
  return load<V>(padded);
}
template <class V, class S>
[[gnu::always_inline]] inline void store_part(S* p, const V& v, int64_t n) {
  S padded[kLanes<V>];
  store(padded, v);
  __builtin_memcpy(p, padded, static_cast<size_t>(n) * sizeof(S));
}

template <class V>
[[gnu::always_inline]] inline V max(const V& a, const V& b) {
  return a > b ? a : b;
}

// Square root. The compiler would call the library for each lane, which might set errno.
template <class V>
[[gnu::always_inline]] inline V sqrt(const V& x) {
#if defined(__x86_64__)
  if constexpr (sizeof(V) >= 32) {
    V y;
    if constexpr (sizeof(Scalar<V>) == 4) {
      asm("vsqrtps %1, %0" : "=v"(y) : "v"(x));
    } else {
      asm("vsqrtpd %1, %0" : "=v"(y) : "v"(x));
    }
    return y;
  }
#endif
  V y{};
  for (int i = 0; i < kLanes<V>; ++i) y[i] = std::sqrt(x[i]);
  return y;
}

// Sum and maximum over the lanes, by halves.
template <class V>
[[gnu::always_inline]] inline Scalar<V> sum_of(const V& v) {
  if constexpr (kLanes<V> == 2) {
    return v[0] + v[1];
  } else {
    using Half = typename VectorOf<Scalar<V>, kLanes<V> / 2>::type;
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return sum_of(static_cast<Half>(halves[0] + halves[1]));
  }
}
template <class V>
[[gnu::always_inline]] inline Scalar<V> max_of(const V& v) {
  if constexpr (kLanes<V> == 2) {
    return v[0] > v[1] ? v[0] : v[1];
  } else {
    using Half = typename VectorOf<Scalar<V>, kLanes<V> / 2>::type;
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return max_of(max(halves[0], halves[1]));
  }
}

// a0 b0 a1 b1 ... of the lower and of the upper halves.
template <class V, size_t... I>
[[gnu::always_inline]] inline V interleave_halves(const V& a, const V& b, bool upper,
                                                  std::index_sequence<I...>) {
  constexpr size_t N = sizeof...(I);
  return upper ? __builtin_shufflevector(a, b, static_cast<int>(N / 2 + I / 2 + I % 2 * N)...)
               : __builtin_shufflevector(a, b, static_cast<int>(I / 2 + I % 2 * N)...);
}
template <class V>
[[gnu::always_inline]] inline V interleave(const V& a, const V& b, bool upper) {
  return interleave_halves(a, b, upper, std::make_index_sequence<static_cast<size_t>(kLanes<V>)>{});
}

// Lane i of the result is the sum over the lanes of rows[i]; destroys rows.
template <class V>
[[gnu::always_inline]] inline V sums_of(V (&rows)[kLanes<V>]) {
#pragma GCC unroll 4
  for (int half = kLanes<V> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      rows[i] =
          interleave(rows[i], rows[i + half], false) + interleave(rows[i], rows[i + half], true);
    }
  }
  return rows[0];
}

// Where a register's worth of a row stands: all lanes, or only the first `lanes`, the row's end.
struct Whole {};
struct Part {
  int64_t lanes;
};
template <class V, class S>
[[gnu::always_inline]] inline V load(const S* p, Whole) {
  return load<V>(p);
}
template <class V, class S>
[[gnu::always_inline]] inline V load(const S* p, Part part) {
  return load_part<V>(p, part.lanes);
}
template <class V, class S>
[[gnu::always_inline]] inline void store(S* p, const V& v, Whole) {
  store(p, v);
}
template <class V, class S>
[[gnu::always_inline]] inline void store(S* p, const V& v, Part part) {
  store_part(p, v, part.lanes);
}
// v with zeros in the lanes beyond the row's end.
template <class V>
[[gnu::always_inline]] inline V within(const V& v, Whole) {
  return v;
}
template <class V>
[[gnu::always_inline]] inline V within(const V& v, Part part) {
  Scalar<V> lanes[kLanes<V>];
  store(lanes, v);
  return load_part<V>(lanes, part.lanes);
}

// f(offset, Whole or Part) for each register of a row of n elements.
template <class V, class F>
[[gnu::always_inline]] inline void sweep(int64_t n, const F& f) {
  constexpr int64_t N = kLanes<V>;
  int64_t i = 0;
  for (; i + N <= n; i += N) {
    f(i, Whole{});
  }
  if (i < n) {
    f(i, Part{n - i});
  }
}

// Sum over a row of what f(offset, Whole or Part) returns, in an order that depends on n alone.
template <class V, class F>
[[gnu::always_inline]] inline Scalar<V> sum_sweep(int64_t n, const F& f) {
  constexpr int64_t N = kLanes<V>;
  V sum0{}, sum1{}, sum2{}, sum3{};
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    sum0 += f(i, Whole{});
    sum1 += f(i + N, Whole{});
    sum2 += f(i + 2 * N, Whole{});
    sum3 += f(i + 3 * N, Whole{});
  }
  for (; i + N <= n; i += N) {
    sum0 += f(i, Whole{});
  }
  if (i < n) {
    sum1 += f(i, Part{n - i});
  }
  return sum_of(static_cast<V>((sum0 + sum1) + (sum2 + sum3)));
}

// e^x. fp32: 2^n times a polynomial of degree 6 on |r| <= ln(2)/2 (relative error about 1e-7); 0
// below -86.6, infinity above 88.7. fp64: the standard library.
template <class V>
[[gnu::always_inline]] inline V exp(const V& x) {
  using A = Scalar<V>;
  if constexpr (std::is_same_v<A, double>) {
    V y{};
    for (int i = 0; i < kLanes<V>; ++i) {
      y[i] = std::exp(x[i]);
    }
    return y;
  } else {
    using Word = typename VectorOf<int32_t, kLanes<V>>::type;
    constexpr float kLow = -86.6f, kHigh = 88.72283f;
    constexpr float kShift =
        12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer held in the low bits
    V clamped = x < kLow ? broadcast<V>(kLow) : x;
    clamped = clamped > kHigh ? broadcast<V>(kHigh) : clamped;
    const V shifted = clamped * 1.44269504088896341f + kShift;
    const V n = shifted - kShift;
    V r = clamped - n * 0.693359375f;  // ln(2) in two parts, the first exact in few bits
    r = r - n * -2.12194440e-4f;
    V p = r * 0.0013814540102558785f + 0.008368745487810102f;
    p = p * r + 0.04166839081090892f;
    p = p * r + 0.16666520395766454f;
    p = p * r + 0.4999999343193442f;
    p = p * (r * r) + r + 1.0f;
    const Word power = (bits<Word>(shifted) - bits<int32_t>(kShift) + 126) << 23;
    V y = p * bits<V>(power) * 2.0f;  // in two steps: 2^128 is not a number of the format
    y = x < kLow ? V{} : y;
    return x > kHigh ? broadcast<V>(__builtin_inff()) : y;
  }
}

// Distribution function of the standard normal. fp32: e^(-x^2/2) times a polynomial in 1 / (1 +
// 0.34 |x|), relative error of the lower tail about 4e-7.
template <class V>
[[gnu::always_inline]] inline V normal_cdf(const V& x) {
  using A = Scalar<V>;
  if constexpr (std::is_same_v<A, double>) {
    V y{};
    for (int i = 0; i < kLanes<V>; ++i) {
      y[i] = 0.5 * std::erfc(x[i] * -0.70710678118654752440);
    }
    return y;
  } else {
    const V size = x < 0.0f ? -x : x;
    const V t = 1.0f / (1.0f + size * 0.34f);
    V q = t * -0.02612256365488716f + 0.1395094999073565f;
    q = q * t + -0.2731529885996523f;
    q = q * t + 0.20220518298731768f;
    q = q * t + -0.04473345168933948f;
    q = q * t + 0.11536527578317683f;
    q = q * t + 0.11519617574536845f;
    q = q * t + 0.1361123919347721f;
    q = q * t + 0.13562049280347296f;
    const V tail = exp(static_cast<V>(size * size * -0.5f)) * (q * t);
    return x < 0.0f ? tail : 1.0f - tail;
  }
}

enum class Level { Base, Avx2, Avx512 };

// Best instruction set of this processor.
inline Level level() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Level::Avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return Level::Avx2;
  }
#endif
  return Level::Base;
}

#if defined(__x86_64__)
template <class Kernel, class... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"), gnu::noinline]] void run_avx512(
    const Args&... args) {
  Kernel::template run<64>(args...);
}
template <class Kernel, class... Args>
[[gnu::target("avx2,fma,bmi2"), gnu::noinline]] void run_avx2(const Args&... args) {
  Kernel::template run<32>(args...);
}
#endif
template <class Kernel, class... Args>
[[gnu::noinline]] void run_base(const Args&... args) {
  Kernel::template run<16>(args...);
}

// At a level this processor has.
template <class Kernel, class... Args>
void run_at(Level level, const Args&... args) {
#if defined(__x86_64__)
  if (level == Level::Avx512) {
    return run_avx512<Kernel>(args...);
  }
  if (level == Level::Avx2) {
    return run_avx2<Kernel>(args...);
  }
#endif
  run_base<Kernel>(args...);
}

template <class Kernel, class... Args>
void run(const Args&... args) {
  run_at<Kernel>(level(), args...);
}

}  // namespace strata::ops::simd
