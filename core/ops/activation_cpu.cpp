// One pass over the tensors: every value is widened, computed and rounded once in registers. The
// backward recomputes the sigmoid or the distribution function from the input instead of keeping
// it.
#include "core/ops/activation_cpu.h"

#include <ATen/ops/empty.h>

#include "core/ops/map_rows.h"

namespace strata::ops::activation_cpu {

namespace activation_cpu_detail {

using simd::Scalar;

template <class V>
[[gnu::always_inline]] inline V sigmoid(const V& x) {
  return Scalar<V>(1) / (Scalar<V>(1) + simd::exp(static_cast<V>(-x)));
}

struct SiluForward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[0] * sigmoid(in[0]);
  }
};
struct SiluBackward {  // dy, x
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    const V s = sigmoid(in[1]);
    out[0] = in[0] * (s * (Scalar<V>(1) + in[1] * (Scalar<V>(1) - s)));
  }
};

struct GeluForward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[0] * simd::normal_cdf(in[0]);
  }
};
struct GeluBackward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    const V x = in[1];
    const V density =
        simd::exp(static_cast<V>(x * x * Scalar<V>(-0.5))) * Scalar<V>(0.39894228040143267794);
    out[0] = in[0] * (simd::normal_cdf(x) + x * density);
  }
};

// x (1 + tanh u) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3).
template <class V>
[[gnu::always_inline]] inline V tanh_gate(const V& x) {
  using A = Scalar<V>;
  return sigmoid(static_cast<V>(A(1.5957691216057307117) * (x + A(0.044715) * (x * x * x))));
}
struct GeluTanhForward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[0] * tanh_gate(in[0]);
  }
};
struct GeluTanhBackward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    using A = Scalar<V>;
    const V x = in[1];
    const V s = tanh_gate(x);
    const V slope = A(1.5957691216057307117) * (A(1) + A(3 * 0.044715) * (x * x));
    out[0] = in[0] * (s + x * (s * (A(1) - s)) * slope);
  }
};

struct ReluForward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[0] < Scalar<V>(0) ? V{} : in[0];
  }
};
struct ReluBackward {
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[1] > Scalar<V>(0) ? in[0] : V{};
  }
};

struct SwigluForward {  // gate, up
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    out[0] = in[0] * sigmoid(in[0]) * in[1];
  }
};
struct SwigluBackward {  // dy, gate, up -> dgate, dup
  template <class V>
  [[gnu::always_inline]] static inline void apply(const V* in, V* out) {
    using A = Scalar<V>;
    const V s = sigmoid(in[1]);
    const V silu = in[1] * s;
    out[0] = in[0] * in[2] * (s + silu * (A(1) - s));
    out[1] = in[0] * silu;
  }
};

}  // namespace activation_cpu_detail

Tensor forward(const Tensor& x, Kind kind) {
  using namespace activation_cpu_detail;
  Tensor y = at::empty(x.sizes(), x.options());
  switch (kind) {
    case Kind::Gelu:
      map_rows<GeluForward, 1, 1>({x}, {y});
      break;
    case Kind::GeluTanh:
      map_rows<GeluTanhForward, 1, 1>({x}, {y});
      break;
    case Kind::Relu:
      map_rows<ReluForward, 1, 1>({x}, {y});
      break;
    case Kind::Silu:
      map_rows<SiluForward, 1, 1>({x}, {y});
      break;
  }
  return y;
}

Tensor backward(const Tensor& dy, const Tensor& x, Kind kind) {
  using namespace activation_cpu_detail;
  Tensor dx = at::empty(x.sizes(), x.options());
  switch (kind) {
    case Kind::Gelu:
      map_rows<GeluBackward, 2, 1>({dy, x}, {dx});
      break;
    case Kind::GeluTanh:
      map_rows<GeluTanhBackward, 2, 1>({dy, x}, {dx});
      break;
    case Kind::Relu:
      map_rows<ReluBackward, 2, 1>({dy, x}, {dx});
      break;
    case Kind::Silu:
      map_rows<SiluBackward, 2, 1>({dy, x}, {dx});
      break;
  }
  return dx;
}

Tensor swiglu_forward(const Tensor& gate, const Tensor& up) {
  Tensor y = at::empty(gate.sizes(), gate.options());
  map_rows<activation_cpu_detail::SwigluForward, 2, 1>({gate, up}, {y});
  return y;
}

void swiglu_backward(const Tensor& dy, const Tensor& gate, const Tensor& up, Tensor& dgate,
                     Tensor& dup) {
  dgate = at::empty(gate.sizes(), gate.options());
  dup = at::empty(up.sizes(), up.options());
  map_rows<activation_cpu_detail::SwigluBackward, 3, 2>({dy, gate, up}, {dgate, dup});
}

}  // namespace strata::ops::activation_cpu
